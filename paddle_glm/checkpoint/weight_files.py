"""Which files of a folder hold the weights, and what files are called."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_glm.errors import InputError

# Format -> beginning and suffix of a full checkpoint's files, in the order in which they are looked for.
WEIGHT_FILE_NAMES = {
    "safetensors": ("model", ".safetensors"),
    "bin": ("pytorch_model", ".bin"),
    "pdparams": ("model_state", ".pdparams"),
}
# An index or a header of more bytes than this is no checkpoint's; parsing takes some twenty times as much.
MAX_JSON_BYTES = 16 << 20
_TP_NAME = re.compile(r"model-tp(\d+)-of-(\d+)\.safetensors")
_PADDLE_TP_NAME = re.compile(r"(?:model_state|model)\.tp(\d+)(-\d+-of-\d+)?\.(?:pdparams|safetensors)")
_FULL_NAME = re.compile(r"(model|pytorch_model|model_state)(-\d+-of-\d+)?\.(safetensors|bin|pdparams)")
_NUMBERED_SHARD = re.compile(r".*-(\d+)-of-(\d+)\.\w+")
_MAX_LISTED = 10


@dataclass(frozen=True)
class WeightFiles:
    """Weight files, rank by rank (one entry for full weights), and the {name: file} of an index."""

    shards: list[list[Path]]
    index: dict[str, str] | None = None


def tp_shard_name(rank: int, degree: int, file_format: str = "safetensors") -> str:
    """The file of one rank: ours, or PaddleNLP's for "pdparams"."""
    if file_format == "pdparams":
        return f"model_state.tp{rank:02d}.pdparams"
    return f"model-tp{rank:02d}-of-{degree:02d}.safetensors"


def is_weight_file(name: str) -> bool:
    """Whether a file of this name holds weights, or says which files do."""
    patterns = (_FULL_NAME, _TP_NAME, _PADDLE_TP_NAME)
    return any(pattern.fullmatch(name.removesuffix(".index.json")) for pattern in patterns)


def find_weight_files(folder: Path) -> WeightFiles:
    """The weight files of a folder.

    Raises InputError where there are none, where some are missing, or where shards lie beside full
    weights.
    """
    ranks = _tp_files(folder) or _paddle_tp_files(folder)
    if not ranks:
        return _unsharded_files(folder)
    if beside := [path.name for path in folder.iterdir() if _FULL_NAME.fullmatch(path.name)]:
        raise InputError(
            f"{folder} holds tensor-parallel shards beside {summarize_names(beside)}: keep one of them"
        )
    return WeightFiles(ranks)


def summarize_names(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _MAX_LISTED} more" if len(ordered) > _MAX_LISTED else ""
    return ", ".join(ordered[:_MAX_LISTED]) + more


def _tp_files(folder: Path) -> list[list[Path]]:
    """All ranks' files in order, an empty list where the folder holds none."""
    found = {}
    for path in folder.iterdir():
        if match := _TP_NAME.fullmatch(path.name):
            found[int(match[1]), int(match[2])] = path
    degrees = {degree for _, degree in found}
    if len(degrees) > 1:
        raise InputError(f"{folder} holds shards of different tensor-parallel degrees {sorted(degrees)}")
    if not degrees:
        return []
    degree = degrees.pop()
    absent = [tp_shard_name(rank, degree) for rank in range(degree) if (rank, degree) not in found]
    if absent:
        raise InputError(
            f"{folder} lacks {summarize_names(absent)}: copy the shards of all ranks into one folder"
        )
    return [[found[rank, degree]] for rank in range(degree)]


def _paddle_tp_files(folder: Path) -> list[list[Path]]:
    """PaddleNLP's shards, which do not say how many they are: `model_state.tp00.pdparams`, ...

    A rank's own shard may be numbered files: `model_state.tp00-00001-of-00002.pdparams`.
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
            if absent := [path.name for path in files if not path.is_file()]:
                raise InputError(
                    f"{folder} lacks {summarize_names(absent)}, which {index_path.name} names: download again"
                )
            return WeightFiles([files], index)
        if (folder / f"{stem}{suffix}").is_file():
            return WeightFiles([[folder / f"{stem}{suffix}"]])
        numbered = sorted(folder.glob(f"{stem}-*-of-*{suffix}"))
        if numbered:
            _check_all_shards_present(folder, numbered)
            return WeightFiles([numbered])
    raise InputError(
        f"{folder} holds no weights: expected model.safetensors, pytorch_model.bin, model_state.pdparams, "
        f"numbered files of these, {tp_shard_name(0, 2)} or {tp_shard_name(0, 2, 'pdparams')}"
    )


def _check_all_shards_present(folder: Path, numbered: list[Path]) -> None:
    matches = [match for path in numbered if (match := _NUMBERED_SHARD.fullmatch(path.name))]
    present = sorted((int(match[1]), int(match[2])) for match in matches)
    total = present[-1][1] if present else 0
    if present != [(number + 1, total) for number in range(total)]:
        raise InputError(
            f"{folder} holds {len(numbered)} numbered weight files of {total}: download the rest"
        )


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
                f"{path}: {name!a:.100} is said to be in {file!a:.100}, expected a {suffix} file beside it"
            )
    return index
