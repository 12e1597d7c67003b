"""Convert a model folder of any format and tensor-parallel degree to any other, streaming.

Weights are memory-mapped and written in chunks of a few MiB, so memory does not grow with the model.
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
from paddle_glm.checkpoint.output_checks import check_output_folder, check_sources_outside_output
from paddle_glm.checkpoint.paddlenlp import set_tokenizer_class
from paddle_glm.checkpoint.quantize_on_load import QuantizingCheckpoint
from paddle_glm.checkpoint.reader import Checkpoint, open_checkpoint
from paddle_glm.checkpoint.save import DEFAULT_SHARD_SIZE, check_format, save_model
from paddle_glm.errors import InputError
from paddle_glm.models.family import vocab_files
from paddle_glm.progress import progress_bar

# Files copied along with the weights; trainer state is not.
AUXILIARY_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.py",
)
# (bits, group_size, embeddings), the arguments of `Family.quantized_config`.
QuantizeOptions = tuple[int, int | None, bool]
# (source, name, rank, degree, tensor) -> the tensor to write instead.
TensorTransform = Callable[[Checkpoint, str, int, int, LazyTensor], LazyTensor]


@dataclass(frozen=True)
class ConversionResult:
    """Bytes of weights written, and seconds until they were flushed to disk."""

    num_bytes: int
    seconds: float

    def __str__(self) -> str:
        speed = self.num_bytes / max(self.seconds, 1e-9) / 1e9
        return f"{self.num_bytes / 1e9:.3g} GB in {self.seconds:.1f} s ({speed:.2f} GB/s)"


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
    file_format: "safetensors" or "bin" with the hub's names and layout, "pdparams" with PaddleNLP's.
    dtype: "float32", "float16" or "bfloat16" to cast float weights to; None keeps every bit.
    transform: applied to each tensor before it is written. quantize: quantise the weights on the way.
    Raises InputError if the source does not match its config.json, if the target cannot be replaced or is
    being written, or if the disk is too small.
    """
    checkpoint = open_checkpoint(source, family)
    checkpoint.validate()
    check_sources_outside_output(target, "target", [checkpoint.folder], in_place=True)
    float_dtype = _float_dtype(dtype)
    output = checkpoint if quantize is None else QuantizingCheckpoint(checkpoint, *quantize)
    config = output.config if dtype is None else replace(output.config, dtype=dtype)
    check_format(config, degree, file_format)
    start = time.perf_counter()
    shards = [
        {
            name: output.read_lazy(name, rank, degree, _target_dtype(output, name, float_dtype))
            for name in output.names()
        }
        for rank in range(degree)
    ]
    if transform is not None:
        for rank, tensors in enumerate(shards):
            for name, tensor in tensors.items():
                tensors[name] = transform(checkpoint, name, rank, degree, tensor)
    total = sum(tensor.nbytes for tensors in shards for tensor in tensors.values())
    check_disk_space(Path(target), total)
    with atomic_folder(target, overwrite) as folder:
        with progress_bar(f"writing {target}", total) as progress:
            for rank, tensors in enumerate(shards):
                save_model(
                    folder, config, tensors.items(), rank, degree, file_format, max_shard_size, progress
                )
        _copy_auxiliary_files(checkpoint.folder, folder)
        for_paddlenlp = file_format == "pdparams"
        if checkpoint.is_paddlenlp != for_paddlenlp:
            set_tokenizer_class(folder, config.family, for_paddlenlp)
        elif config == checkpoint.config and not for_paddlenlp:
            shutil.copyfile(checkpoint.folder / "config.json", folder / "config.json")
        del checkpoint, output, shards, tensors  # Windows cannot replace a folder whose files are mapped
    return ConversionResult(total, time.perf_counter() - start)


def check_target(source: Path | str, target: Path | str, flag: str, overwrite: bool = False) -> None:
    """Raise InputError if `reshard` could not write `target`, the value of `flag`; nothing is changed."""
    check_output_folder(target, flag, overwrite)
    check_sources_outside_output(target, flag, [source], in_place=True)


def _target_dtype(
    checkpoint: Checkpoint | QuantizingCheckpoint, name: str, float_dtype: DType | None
) -> DType | None:
    """The dtype to cast a tensor to; parameters with a dtype of their own (float32 scales) keep it."""
    spec = checkpoint.parameter_specs.get(name)
    return float_dtype if float_dtype is None or spec is None or spec.dtype is None else np.dtype(spec.dtype)


def _float_dtype(name: str | None) -> DType | None:
    if name is None:
        return None
    if name not in SAFETENSORS_FLOAT_NAMES:
        raise InputError(f"dtype {name!r} is unknown: expected one of {', '.join(SAFETENSORS_FLOAT_NAMES)}")
    return DTYPES[SAFETENSORS_FLOAT_NAMES[name]]


def check_disk_space(target: Path, needed: int) -> None:
    """Raise InputError if the disk of `target` has less than `needed` bytes free."""
    existing = next(parent for parent in Path(os.path.realpath(target)).parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(f"{existing} has {free / 1e9:.1f} GB free, {target} needs {needed / 1e9:.1f} GB")


def _copy_auxiliary_files(source: Path, folder: Path) -> None:
    for pattern in (*AUXILIARY_FILES, *vocab_files()):
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)
