"""Open checkpoints of every format and read any tensor-parallel shard of them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.atomic_save import check_file_sizes
from paddle_glm.checkpoint.lazy_tensor import (
    CHUNK_BYTES,
    SAFETENSORS_FLOAT_NAMES,
    ConcatenatedRows,
    LazyTensor,
    StoredTensor,
    cast_chunks,
    copy_chunks,
    row_blocks,
    safetensors_dtype_name,
    transposed_blocks,
)
from paddle_glm.checkpoint.mapped_file import release_pages
from paddle_glm.checkpoint.paddlenlp import detect_format, tensors_to_hub
from paddle_glm.checkpoint.pdparams_file import open_pdparams
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.checkpoint.torch_file import open_torch
from paddle_glm.checkpoint.weight_files import find_weight_files, summarize_names
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from paddle_glm.sharding import REPLICATED, CopyStep, ParameterSpec, Sharding, apply_copy, axis_slice

FILE_READERS = {
    ".safetensors": open_safetensors,
    ".bin": open_torch,
    ".pt": open_torch,
    ".pth": open_torch,
    ".pdparams": open_pdparams,
}


def open_checkpoint(folder: Path | str, family: str | None = None) -> "Checkpoint":
    """Open a hub folder, a PaddleNLP folder or a folder of tensor-parallel shards, in any file format.

    Only headers are read. Of several formats in one folder, safetensors is preferred to `.bin`, and `.bin`
    to `.pdparams`. Raises InputError if no weights are found, files are missing, damaged or incomplete by
    the folder's manifest, or if the folder has both shards and full weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected one with weights and config.json")
    check_file_sizes(folder)
    weight_files = find_weight_files(folder)
    shards = [_open_shard(folder, files) for files in weight_files.shards]
    if weight_files.index is not None and (missing := set(weight_files.index) - shards[0].keys()):
        raise InputError(f"{folder}: the index lists {summarize_names(missing)}, absent from its files")
    layout = detect_format(shards[0], weight_files.shards[0][0].suffix == ".pdparams")
    if layout is None:
        return Checkpoint(folder, shards, family)
    return Checkpoint(folder, [tensors_to_hub(shard, layout) for shard in shards], family, is_paddlenlp=True)


def _open_shard(folder: Path, files: list[Path]) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for path in files:
        opened = FILE_READERS[path.suffix](path)
        if duplicates := opened.keys() & tensors.keys():
            raise InputError(f"{folder}: {summarize_names(duplicates)} in more than one file")
        tensors.update(opened)
    return tensors


class Checkpoint:
    """Weights of a folder under their hub names, whatever its format and tensor-parallel degree.

    is_paddlenlp: the files have PaddleNLP's names and layout; the tensors here have the hub's.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Mapping[str, StoredTensor]],
        family: str | None = None,
        is_paddlenlp: bool = False,
    ) -> None:
        self.folder = folder
        self.is_paddlenlp = is_paddlenlp
        self._shards = shards
        self._family_name = family

    @property
    def tensor_parallel_degree(self) -> int:
        """Number of tensor-parallel shards in the folder; 1 for full weights."""
        return len(self._shards)

    @cached_property
    def config(self) -> ModelConfig:
        """The architecture, from the folder's config.json (read on first use)."""
        return ModelConfig.from_pretrained(self.folder, self._family_name)

    @cached_property
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        """Full shape, sharding and dtype of every parameter of the model, by hub name."""
        return family_of(self.config).parameters(self.config)

    def names(self) -> list[str]:
        """Names of all stored tensors, including those that the model ignores."""
        return list(self._shards[0])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the full tensor."""
        stored = self._stored(name)[0]
        if len(self._shards) == 1 or self._sharding(name).axis is None:
            return stored.shape
        return self.parameter_specs[name].shape

    def safetensors_dtype(self, name: str) -> str:
        """The stored dtype by its safetensors name: "F32", "F16", "BF16", ..."""
        return safetensors_dtype_name(self._stored(name)[0].dtype)

    @property
    def float_dtype(self) -> str:
        """The dtype of the float weights, by its name in configs ("float32", "float16", "bfloat16")."""
        first = next(name for name, spec in self.parameter_specs.items() if spec.dtype is None)
        stored = self.safetensors_dtype(first)
        return next((name for name, tag in SAFETENSORS_FLOAT_NAMES.items() if tag == stored), "float32")

    def read(self, name: str, rank: int = 0, degree: int = 1) -> Array:
        """The shard of a tensor for tensor-parallel rank `rank` of `degree`, in hub layout.

        A read-only view of the mapped file if the shard is contiguous in one file, otherwise a new array.
        Only the needed bytes are read. Vocabulary padding is zeros.
        """
        stored = self._stored_shard(name, rank, degree)
        if stored is not None:
            return stored[:] if isinstance(stored, ConcatenatedRows) else stored
        sharding = self._sharding(name)
        shape, sources, steps = self._copy_plan(name, sharding, rank, degree)
        axis = sharding.axis or 0
        if len(steps) == 1 and axis == 0 and _num_rows(steps[0]) == shape[0]:
            view: Array = sources[steps[0].source_rank][steps[0].source_start : steps[0].source_stop]
            return view
        result = np.zeros(shape, sources[0].dtype)
        for step in steps:
            apply_copy(step, axis, sources[step.source_rank], result)
        return result

    def read_into(self, out: Array, name: str, rank: int = 0, degree: int = 1) -> None:
        """Like `read`, into a C-contiguous array, a few MiB at a time; floats are cast to its dtype.

        Raises InputError if the shapes differ or a value overflows float16.
        """
        tensor = self.read_lazy(name, rank, degree, out.dtype)
        if tensor.shape != out.shape:
            raise InputError(f"{self.folder}: {name} has shape {tensor.shape}, expected {out.shape}")
        copy_chunks(tensor.chunks(), out)

    def read_lazy(self, name: str, rank: int = 0, degree: int = 1, dtype: DType | None = None) -> LazyTensor:
        """Like `read`, as chunks of a few MiB; float values are cast to `dtype`."""
        stored_dtype = self._stored(name)[0].dtype
        sharding = self._sharding(name) if degree > 1 or len(self._shards) > 1 else REPLICATED
        shape = sharding.local_shape(self.shape(name), rank, degree)
        is_float = safetensors_dtype_name(stored_dtype) in ("F64", "F32", "F16", "BF16")
        target_dtype = dtype if dtype is not None and is_float else stored_dtype

        def cast_if_needed(chunks: Iterator[Array]) -> Iterable[Array]:
            return chunks if target_dtype == stored_dtype else cast_chunks(chunks, target_dtype, name)

        return LazyTensor(
            target_dtype,
            shape,
            lambda: cast_if_needed(self._chunks(name, rank, degree)),
            lambda: cast_if_needed(self._transposed_chunks(name, rank, degree)),
        )

    def validate(self) -> None:
        """Check names, shapes and dtypes of all shards against `parameter_specs`.

        Raises one InputError that lists missing, unexpected and wrongly shaped or typed tensors.
        """
        keys_to_ignore = family_of(self.config).keys_to_ignore
        first = self._shards[0]
        missing: set[str] = set()
        unexpected: set[str] = set()
        wrong: set[str] = set()
        for rank, shard in enumerate(self._shards):
            missing |= self.parameter_specs.keys() - shard.keys()
            for name, tensor in shard.items():
                if name in self.parameter_specs:
                    expected = self._local_shape(name, rank)
                    if tensor.shape != expected:
                        wrong.add(f"{name} {tensor.shape}, expected {expected}")
                    elif name in first and tensor.dtype != first[name].dtype:
                        wrong.add(f"{name} {tensor.dtype} in shard {rank}, {first[name].dtype} in shard 0")
                    elif (tensor.dtype == np.int8) != (self.parameter_specs[name].dtype == "int8"):
                        bits = self.config.quantization_bit
                        wrong.add(f"{name} {tensor.dtype}, while config.json says quantization_bit = {bits}")
                elif not any(re.fullmatch(pattern, name) for pattern in keys_to_ignore):
                    unexpected.add(name)
        problems = {"missing": missing, "unexpected": unexpected, "wrong shape or dtype": wrong}
        if lines := [
            f"{len(names)} {problem}: {summarize_names(names)}"
            for problem, names in problems.items()
            if names
        ]:
            raise InputError(
                f"{self.folder} does not match its config.json ({self.config.family}): {'; '.join(lines)}"
            )

    def _local_shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Expected shape of a tensor in the shard of `rank`."""
        spec, degree = self.parameter_specs[name], len(self._shards)
        try:
            return spec.sharding.local_shape(spec.shape, rank, degree)
        except InputError as error:
            message = f"{self.folder} has {degree} shards, but {error}: are some missing?"
            raise InputError(message) from error

    def _stored(self, name: str) -> list[StoredTensor]:
        try:
            return [shard[name] for shard in self._shards]
        except KeyError:
            raise InputError(f"{self.folder} has no tensor {name!r}, or not in every shard") from None

    def _sharding(self, name: str) -> Sharding:
        if name in self.parameter_specs:
            return self.parameter_specs[name].sharding
        if any(re.fullmatch(pattern, name) for pattern in family_of(self.config).keys_to_ignore):
            return REPLICATED
        raise InputError(
            f"{self.folder}: {self.config.family} has no tensor {name!r}, so its sharding is unknown"
        )

    def _stored_shard(self, name: str, rank: int, degree: int) -> StoredTensor | None:
        """The stored array if it is the requested shard as it is, otherwise None."""
        stored = self._stored(name)
        if degree == len(stored) and 0 <= rank < degree:
            return stored[rank]
        return stored[0] if self._sharding(name).axis is None else None

    def _copy_plan(
        self, name: str, sharding: Sharding, rank: int, degree: int
    ) -> tuple[tuple[int, ...], list[Any], list[CopyStep]]:
        """Shape of the requested shard, the stored shards, and the copies that assemble it from them."""
        sources = self._stored(name)
        full = self.parameter_specs[name].shape
        for source_rank, source in enumerate(sources):
            expected = sharding.local_shape(full, source_rank, len(sources))
            if source.shape != expected:
                raise InputError(f"{self.folder}: {name} has shape {source.shape}, expected {expected}")
        return (
            sharding.local_shape(full, rank, degree),
            sources,
            sharding.reshard_plan(len(sources), rank, degree),
        )

    def _chunks(self, name: str, rank: int, degree: int) -> Iterator[Array]:
        stored = self._stored_shard(name, rank, degree)
        if stored is not None:
            yield from row_blocks(stored)
            return
        sharding = self._sharding(name)
        shape, sources, steps = self._copy_plan(name, sharding, rank, degree)
        if sharding.axis == 0:
            for step in steps:
                yield from row_blocks(sources[step.source_rank][step.source_start : step.source_stop])
            padding = shape[0] - sum(map(_num_rows, steps))
            if padding:
                yield np.zeros((padding, *shape[1:]), sources[0].dtype)
            return
        # Each row of a row-parallel weight is spread over the shards: assemble a block of rows at a time.
        row_bytes = sources[0].itemsize * int(np.prod(shape[1:]))
        rows = max(1, CHUNK_BYTES // row_bytes)
        buffer = np.zeros((min(rows, shape[0]), *shape[1:]), sources[0].dtype)
        for start in range(0, shape[0], rows):
            block = buffer[: min(rows, shape[0] - start)]
            for step in steps:
                rows_of_rank = sources[step.source_rank][start : start + len(block)]
                apply_copy(step, sharding.axis or 0, rows_of_rank, block)
                release_pages(rows_of_rank)
            yield block

    def _transposed_chunks(self, name: str, rank: int, degree: int) -> Iterator[Array]:
        """The transpose of a 2-D tensor, as blocks of rows."""
        stored = self._stored_shard(name, rank, degree)
        if stored is not None:
            yield from transposed_blocks(stored.pieces if isinstance(stored, ConcatenatedRows) else [stored])
            return
        sharding = self._sharding(name)
        shape, sources, steps = self._copy_plan(name, sharding, rank, degree)
        axis = sharding.axis or 0
        slices = [
            sources[step.source_rank][axis_slice(axis, step.source_start, step.source_stop)] for step in steps
        ]
        if axis == 1:  # pieces concatenated along axis 1 become consecutive rows of the transpose
            for piece in slices:
                yield from transposed_blocks([piece])
            return
        if padding := shape[0] - sum(map(len, slices)):
            slices.append(np.zeros((padding, *shape[1:]), sources[0].dtype))
        yield from transposed_blocks(slices)


def _num_rows(step: CopyStep) -> int:
    return step.source_stop - step.source_start
