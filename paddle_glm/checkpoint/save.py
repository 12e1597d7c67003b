"""Write weights: full checkpoints in any format, and tensor-parallel shards."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paddle_glm.checkpoint.lazy_tensor import LazyTensor, as_lazy
from paddle_glm.checkpoint.paddlenlp import check_paddlenlp_degree, tensors_to_paddlenlp
from paddle_glm.checkpoint.pdparams_file import write_pdparams
from paddle_glm.checkpoint.safetensors_file import write_safetensors
from paddle_glm.checkpoint.torch_file import write_torch
from paddle_glm.checkpoint.weight_files import WEIGHT_FILE_NAMES, tp_shard_name
from paddle_glm.config import ModelConfig, paddlenlp_format
from paddle_glm.errors import InputError
from paddle_glm.progress import Progress

_WRITERS = {"safetensors": write_safetensors, "bin": write_torch, "pdparams": write_pdparams}
FORMATS = tuple(_WRITERS)
SAVE_FORMAT_HELP = (
    "safetensors: the hub's names and layout; bin: the same as a torch pickle; "
    "pdparams: PaddleNLP's names and layout, with its config.json"
)
DEFAULT_SHARD_SIZE = "5GB"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def parse_size(size: str | int) -> int:
    """Bytes in "5GB" (powers of 1000), "5GiB" (powers of 1024) or a plain number; else InputError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise InputError(
            f"size {size!r} is not understood: expected a number and a unit, such as 5GB or 500MiB"
        )
    return max(1, int(float(match[1]) * _UNITS[match[2].upper()]))


def save_model(
    folder: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Any]],
    rank: int = 0,
    degree: int = 1,
    file_format: str = "safetensors",
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    progress: Progress | None = None,
) -> None:
    """Write the shard of one rank into `folder`; rank 0 also writes config.json.

    tensors: (hub name, array or LazyTensor), already sharded for `rank` of `degree`. "pdparams" converts
    them to PaddleNLP's names and layout. Raises InputError as `check_format` does.
    """
    check_format(config, degree, file_format)
    if file_format == "pdparams":
        tensors = tensors_to_paddlenlp(tensors, config)
    if degree == 1:
        save_checkpoint(folder, tensors, max_shard_size, file_format, progress)
    else:
        save_tp_shard(folder, rank, degree, tensors, progress, file_format)
    if rank == 0 and file_format == "pdparams":
        config.save_for_paddlenlp(folder, degree)
    elif rank == 0:
        config.save_pretrained(folder)


def check_format(config: ModelConfig, degree: int, file_format: str) -> None:
    """Raise InputError if a model cannot be saved in this format and degree."""
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r} is unknown: expected one of {', '.join(FORMATS)}")
    if degree < 1 or (degree > 1 and file_format == "bin"):
        raise InputError(
            f"tensor_parallel_degree {degree} as {file_format}: expected 1, or another format for shards"
        )
    if config.quantization_bit and file_format == "pdparams":
        raise InputError("PaddleNLP cannot load these quantised weights: save as safetensors or bin")
    if file_format == "pdparams":
        paddlenlp_format(config.family).check_expressible(config.to_hub_dict())
        if degree > 1:
            check_paddlenlp_degree(config, degree)


def save_checkpoint(
    folder: Path,
    tensors: Iterable[tuple[str, Any]],
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    file_format: str = "safetensors",
    progress: Progress | None = None,
) -> None:
    """Write full tensors into `folder` (usually a temporary one of `atomic_folder`).

    tensors: (name, array or LazyTensor); lazy tensors are produced one at a time while they are written.
    Writes one file, or numbered files of at most `max_shard_size` each (a larger tensor has one to itself)
    and an index.
    """
    if file_format not in FORMATS:
        raise InputError(f"format {file_format!r} is unknown: expected one of {', '.join(FORMATS)}")
    stem, suffix = WEIGHT_FILE_NAMES[file_format]
    write = _WRITERS[file_format]
    groups = _split_into_shards(_as_lazy_tensors(tensors), parse_size(max_shard_size))
    if len(groups) == 1:
        write(folder / f"{stem}{suffix}", groups[0], progress)
        return
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        name = f"{stem}-{number:05d}-of-{len(groups):05d}{suffix}"
        write(folder / name, group, progress)
        weight_map.update(dict.fromkeys(group, name))
    total = sum(tensor.nbytes for group in groups for tensor in group.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    text = json.dumps(index, ensure_ascii=False, indent=2)
    (folder / f"{stem}{suffix}.index.json").write_text(text + "\n", encoding="utf-8")


def save_tp_shard(
    folder: Path,
    rank: int,
    degree: int,
    tensors: Iterable[tuple[str, Any]],
    progress: Progress | None = None,
    file_format: str = "safetensors",
) -> Path:
    """Write tensors already sharded for `rank` of `degree` into `folder`; return the file."""
    if not 0 <= rank < degree:
        raise InputError(
            f"rank {rank} is outside tensor_parallel_degree {degree}: expected 0 to {degree - 1}"
        )
    path = Path(folder) / tp_shard_name(rank, degree, file_format)
    _WRITERS[file_format](path, _as_lazy_tensors(tensors), progress)
    return path


def _as_lazy_tensors(tensors: Iterable[tuple[str, Any]]) -> dict[str, LazyTensor]:
    lazy_tensors: dict[str, LazyTensor] = {}
    for name, tensor in tensors:
        if name in lazy_tensors:
            raise InputError(f"duplicate tensor {name!r}")
        lazy_tensors[name] = as_lazy(tensor)
    return lazy_tensors


def _split_into_shards(tensors: dict[str, LazyTensor], limit: int) -> list[dict[str, LazyTensor]]:
    """Consecutive tensors in groups of at most `limit` bytes; at least one group."""
    groups: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > limit:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    return groups
