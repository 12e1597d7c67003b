"""Find the weight files of a folder; file names of every format."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_glm.errors import InputError

# Format -> (stem, suffix) of a full checkpoint's files, in order of preference.
WEIGHT_FILE_NAMES = {
    "safetensors": ("model", ".safetensors"),
    "bin": ("pytorch_model", ".bin"),
    "pdparams": ("model_state", ".pdparams"),
}
# No real index or header is larger; parsing takes some twenty times as much memory.
MAX_JSON_BYTES = 16 << 20
_TP_NAME = re.compile(r"model-tp(\d+)-of-(\d+)\.safetensors")
_PADDLE_TP_NAME = re.compile(r"(?:model_state|model)\.tp(\d+)(-\d+-of-\d+)?\.(?:pdparams|safetensors)")
_FULL_NAME = re.compile(r"(model|pytorch_model|model_state)(-\d+-of-\d+)?\.(safetensors|bin|pdparams)")
_NUMBERED_SHARD = re.compile(r".*-(\d+)-of-(\d+)\.\w+")
_MAX_LISTED = 10


@dataclass(frozen=True)
class WeightFiles:
    """Weight files by rank (one entry for full weights), and the {tensor: file} of an index."""

    shards: list[list[Path]]
    index: dict[str, str] | None = None


def tp_shard_name(rank: int, degree: int, file_format: str = "safetensors") -> str:
    """File name of one rank's shard; for "pdparams" PaddleNLP's name."""
    if file_format == "pdparams":
        return f"model_state.tp{rank:02d}.pdparams"
    return f"model-tp{rank:02d}-of-{degree:02d}.safetensors"


def is_weight_file(name: str) -> bool:
    """Whether a file name is that of a weight file or of a weight index."""
    patterns = (_FULL_NAME, _TP_NAME, _PADDLE_TP_NAME)
    return any(pattern.fullmatch(name.removesuffix(".index.json")) for pattern in patterns)


def find_weight_files(folder: Path) -> WeightFiles:
    """The weight files of a folder.

    Raises InputError if there are none, some are missing, or there are both shards and full weights.
    """
    shards = _tp_files(folder) or _paddle_tp_files(folder)
    if not shards:
        return _unsharded_files(folder)
    if full := [path.name for path in folder.iterdir() if _FULL_NAME.fullmatch(path.name)]:
        raise InputError(
            f"{folder} has both tensor-parallel shards and {summarize_names(full)}: keep one of them"
        )
    return WeightFiles(shards)


def summarize_names(names: Iterable[str]) -> str:
    """The first names in alphabetical order, and the number of others."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _MAX_LISTED} more" if len(ordered) > _MAX_LISTED else ""
    return ", ".join(ordered[:_MAX_LISTED]) + more


def _tp_files(folder: Path) -> list[list[Path]]:
    """The shards of all ranks in order; empty if the folder has none."""
    shards = {}
    for path in folder.iterdir():
        if match := _TP_NAME.fullmatch(path.name):
            shards[int(match[1]), int(match[2])] = path
    degrees = {degree for _, degree in shards}
    if len(degrees) > 1:
        raise InputError(f"{folder} has shards of different tensor-parallel degrees {sorted(degrees)}")
    if not degrees:
        return []
    degree = degrees.pop()
    missing = [tp_shard_name(rank, degree) for rank in range(degree) if (rank, degree) not in shards]
    if missing:
        raise InputError(
            f"{folder} lacks {summarize_names(missing)}: copy the shards of all ranks into one folder"
        )
    return [[shards[rank, degree]] for rank in range(degree)]


def _paddle_tp_files(folder: Path) -> list[list[Path]]:
    """PaddleNLP's shards, whose names lack the degree: `model_state.tp00.pdparams`, ...

    A rank may have several numbered files: `model_state.tp00-00001-of-00002.pdparams`.
    """
    ranks: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if match := _PADDLE_TP_NAME.fullmatch(path.name):
            ranks[int(match[1])].append(path)
    for rank in range(max(ranks, default=-1) + 1):
        if rank not in ranks:
            raise InputError(
                f"{folder} lacks the shard of rank {rank}, {tp_shard_name(rank, 0, 'pdparams')}: copy the "
                "shards of all ranks into one folder"
            )
        if len(ranks[rank]) > 1 or _NUMBERED_SHARD.fullmatch(ranks[rank][0].name):
            _check_all_shards_present(folder, ranks[rank])
    return [ranks[rank] for rank in sorted(ranks)]


def _unsharded_files(folder: Path) -> WeightFiles:
    for stem, suffix in WEIGHT_FILE_NAMES.values():
        index_path = folder / f"{stem}{suffix}.index.json"
        if index_path.is_file():
            index = _read_index(index_path, suffix)
            files = [folder / name for name in sorted(set(index.values()))]
            if missing := [path.name for path in files if not path.is_file()]:
                raise InputError(
                    f"{folder} lacks {summarize_names(missing)}, listed in {index_path.name}: download again"
                )
            return WeightFiles([files], index)
        if (folder / f"{stem}{suffix}").is_file():
            return WeightFiles([[folder / f"{stem}{suffix}"]])
        numbered = sorted(folder.glob(f"{stem}-*-of-*{suffix}"))
        if numbered:
            _check_all_shards_present(folder, numbered)
            return WeightFiles([numbered])
    raise InputError(
        f"{folder} has no weights: expected model.safetensors, pytorch_model.bin, model_state.pdparams, "
        f"numbered files of these, {tp_shard_name(0, 2)} or {tp_shard_name(0, 2, 'pdparams')}"
    )


def _check_all_shards_present(folder: Path, numbered: list[Path]) -> None:
    matches = [match for path in numbered if (match := _NUMBERED_SHARD.fullmatch(path.name))]
    present = sorted((int(match[1]), int(match[2])) for match in matches)
    total = present[-1][1] if present else 0
    if present != [(number + 1, total) for number in range(total)]:
        raise InputError(f"{folder} has {len(numbered)} of {total} numbered weight files: download the rest")


def _read_index(path: Path, suffix: str) -> dict[str, str]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        index: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a weight index ({error!r:.200}): download it again") from error
    entries: Iterable[tuple[str, Any]] = index.items() if isinstance(index, dict) and index else [("", None)]
    for name, file in entries:
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(suffix):
            raise InputError(
                f"{path}: {name!a:.100} is mapped to {file!a:.100}, expected a {suffix} file of this folder"
            )
    return index
