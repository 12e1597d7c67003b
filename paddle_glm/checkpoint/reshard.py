"""From a folder of any format and tensor-parallel degree to any other, streaming.

Weights are memory-mapped and written in pieces of a few MiB, so that memory does not grow with the model.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paddle_glm.array_types import DType
from paddle_glm.checkpoint.atomic_save import atomic_folder
from paddle_glm.checkpoint.lazy_tensor import DTYPES, SAFETENSORS_FLOAT_NAMES, LazyTensor
from paddle_glm.checkpoint.output_checks import check_output_folder
from paddle_glm.checkpoint.paddlenlp import set_tokenizer_class
from paddle_glm.checkpoint.quantize_on_load import QuantizingCheckpoint
from paddle_glm.checkpoint.reader import Checkpoint, open_checkpoint
from paddle_glm.checkpoint.save import DEFAULT_SHARD_SIZE, check_format, save_model
from paddle_glm.errors import InputError
from paddle_glm.progress import progress_bar

# What belongs to the model beside its weights; a trainer's own state stays behind.
AUXILIARY_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "ice_text.model",
    "*.py",
)


# What `Family.quantized_config` takes: bits, group_size, embeddings.
QuantizeOptions = tuple[int, int | None, bool]
# (source, name, rank, degree, what would be written) -> what is written.
TensorTransform = Callable[[Checkpoint, str, int, int, LazyTensor], LazyTensor]


@dataclass(frozen=True)
class ConversionResult:
    """What was written: bytes of weights, and seconds until they were safely on disk."""

    bytes: int
    seconds: float

    def __str__(self) -> str:
        speed = self.bytes / max(self.seconds, 1e-9) / 1e9
        return f"{self.bytes / 1e9:.3g} GB in {self.seconds:.1f} s ({speed:.2f} GB/s)"


def reshard(
    source: Path | str,
    target: Path | str,
    degree: int = 1,
    dtype: str | None = None,
    max_shard_size: str | int = DEFAULT_SHARD_SIZE,
    file_format: str = "safetensors",
    overwrite: bool = False,
    family: str | None = None,
    transform: TensorTransform | None = None,
    quantize: QuantizeOptions | None = None,
) -> ConversionResult:
    """Write the model in `source` (any folder that `open_checkpoint` reads) to the new folder `target`.

    degree: 1 for full tensors, otherwise one file per tensor-parallel rank.
    file_format: "safetensors" and "bin" have the hub's names and layout, "pdparams" PaddleNLP's.
    dtype: "float32", "float16" or "bfloat16" to cast floating point weights to; None keeps every bit.
    transform: gives what is written in place of a tensor. quantize: write integers in place of float weights.
    Raises InputError where the source does not fit its config.json, or where the target is in use.
    """
    checkpoint = open_checkpoint(source, family)
    checkpoint.validate()
    _check_source_not_inside_target(checkpoint.folder, Path(target))
    cast = _float_dtype(dtype)
    written = checkpoint if quantize is None else QuantizingCheckpoint(checkpoint, *quantize)
    config = written.config if dtype is None else replace(written.config, dtype=dtype)
    check_format(config, degree, file_format)
    start = time.perf_counter()
    ranks = [
        {
            name: written.read_lazy(name, rank, degree, _target_dtype(written, name, cast))
            for name in written.names()
        }
        for rank in range(degree)
    ]
    if transform is not None:
        for rank, tensors in enumerate(ranks):
            for name, tensor in tensors.items():
                tensors[name] = transform(checkpoint, name, rank, degree, tensor)
    total = sum(tensor.nbytes for tensors in ranks for tensor in tensors.values())
    check_disk_space(Path(target), total)
    with atomic_folder(target, overwrite) as folder:
        with progress_bar(f"writing {target}", total) as progress:
            for rank, tensors in enumerate(ranks):
                save_model(
                    folder, config, tensors.items(), rank, degree, file_format, max_shard_size, progress
                )
        _copy_auxiliary_files(checkpoint.folder, folder)
        for_paddlenlp = file_format == "pdparams"
        if checkpoint.is_paddlenlp != for_paddlenlp:
            set_tokenizer_class(folder, config.family, for_paddlenlp)
        elif config == checkpoint.config and not for_paddlenlp:
            shutil.copyfile(checkpoint.folder / "config.json", folder / "config.json")
        del checkpoint, written, ranks, tensors  # Windows replaces no folder whose files are mapped
    return ConversionResult(total, time.perf_counter() - start)


def check_target(source: Path | str, target: Path | str, flag: str, overwrite: bool = False) -> None:
    """Raise InputError where `reshard` could not write `target`, which `flag` names; nothing is changed."""
    check_output_folder(target, flag, overwrite)
    _check_source_not_inside_target(Path(source), Path(target))


def _target_dtype(
    checkpoint: Checkpoint | QuantizingCheckpoint, name: str, cast: DType | None
) -> DType | None:
    """What a tensor is cast to where floats are cast: scales of quantised weights stay float32."""
    own = checkpoint.table[name].dtype if name in checkpoint.table else None
    return cast if cast is None or own is None else np.dtype(own)


def _float_dtype(name: str | None) -> DType | None:
    if name is None:
        return None
    if name not in SAFETENSORS_FLOAT_NAMES:
        raise InputError(f"dtype {name!r} is unknown: expected one of {', '.join(SAFETENSORS_FLOAT_NAMES)}")
    return DTYPES[SAFETENSORS_FLOAT_NAMES[name]]


def _check_source_not_inside_target(source: Path, target: Path) -> None:
    """Replacing the target would remove a source that lies inside it."""
    inner, outer = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if outer in inner.parents:
        raise InputError(f"{target} holds the source {source}: choose a folder beside it")


def check_disk_space(target: Path, needed: int) -> None:
    """Raise `InputError` where `target` needs more bytes than the disk has free."""
    existing = next(parent for parent in Path(os.path.realpath(target)).parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(f"{existing} has {free / 1e9:.1f} GB free, {target} needs {needed / 1e9:.1f} GB")


def _copy_auxiliary_files(source: Path, folder: Path) -> None:
    for pattern in AUXILIARY_FILES:
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)
