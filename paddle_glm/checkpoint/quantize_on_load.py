"""A float checkpoint seen as a quantised one: integers and scales are made as they are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.lazy_tensor import LazyTensor
from paddle_glm.checkpoint.reader import Checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from paddle_glm.quantization import QuantizedWeight, quantization_of, quantize, scale_name, weight_name
from paddle_glm.sharding import ParameterSpec


class FloatCheckpoint(Protocol):
    """What is needed of a float model: `Checkpoint`, or what makes its numbers otherwise."""

    @property
    def folder(self) -> Path: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def table(self) -> dict[str, ParameterSpec]: ...
    def read_into(self, out: Array, name: str, rank: int = 0, degree: int = 1) -> None: ...
    def read_lazy(
        self, name: str, rank: int = 0, degree: int = 1, dtype: DType | None = None
    ) -> LazyTensor: ...


def quantize_on_load(
    checkpoint: Checkpoint, bits: int | None, group_size: int | None = None, embeddings: bool = False
) -> "Checkpoint | QuantizingCheckpoint":
    """The checkpoint as it is where `bits` is None or it is quantised so already, else seen as quantised.

    Raises `InputError` where it is quantised otherwise.
    """
    if not bits:
        if group_size is not None or embeddings:
            raise InputError(
                "quantization_group_size and quantization_embeddings need quantization_bit: 4 or 8"
            )
        return checkpoint
    existing = quantization_of(checkpoint.config)
    if existing is None:
        return QuantizingCheckpoint(checkpoint, bits, group_size, embeddings)
    if existing.satisfies(bits, group_size, embeddings):
        return checkpoint
    raise InputError(
        f"{checkpoint.folder} is quantised to {existing.bits} bits already "
        f"(group_size {existing.group_size or 0}): "
        "give its float model to have it otherwise, or leave the flags out"
    )


class QuantizingCheckpoint:
    """What `Checkpoint` gives, for the model quantised so.

    Weights are read, quantised and handed on some rows at a time, so that no more of the float model than
    that is ever in memory.
    """

    def __init__(
        self, source: FloatCheckpoint, bits: int, group_size: int | None = None, embeddings: bool = False
    ) -> None:
        """The options of `Family.quantized_config`; raises `InputError` where they do not fit."""
        family = family_of(source.config)
        self.source, self.folder = source, Path(source.folder)
        self.config = family.quantized_config(source.config, bits, group_size, embeddings)
        self.table = family.parameters(self.config)
        quantization = quantization_of(self.config)
        assert quantization is not None
        self._quantization = quantization
        # A scale, from where its weight has just been read: whoever wants one wants the other.
        self._cached_scale: dict[tuple[str, int, int], Array] = {}

    def names(self) -> list[str]:
        """Names of all tensors, without those of the source that the model ignores."""
        return list(self.table)

    def read(self, name: str, rank: int = 0, degree: int = 1) -> Array:
        """What tensor-parallel rank `rank` of `degree` holds of a tensor of the quantised model."""
        tensor = self.read_lazy(name, rank, degree)
        values = np.empty(tensor.shape, tensor.dtype)
        self.read_into(values, name, rank, degree)
        return values

    def read_into(self, out: Array, name: str, rank: int = 0, degree: int = 1) -> None:
        """Like `read`, into a C-contiguous array; floats that stay floats are cast to its dtype."""
        if (kept := self._cached_scale.pop((name, rank, degree), None)) is not None:
            out[...] = kept
            return
        weight = weight_name(name)
        if not self._is_quantized(weight):
            self.source.read_into(out, name, rank, degree)
            return
        values = out if name == weight else self._empty(weight, rank, degree)
        scale = self._empty(scale_name(weight), rank, degree) if name == weight else out
        start = 0
        for block in self._blocks(weight, rank, degree):
            stop = start + len(block.values)
            values[start:stop], scale[start:stop] = block
            start = stop
        if name == weight:
            self._cached_scale = {(scale_name(weight), rank, degree): scale}

    def read_lazy(self, name: str, rank: int = 0, degree: int = 1, dtype: DType | None = None) -> LazyTensor:
        """Like `read`, in pieces for writing; floats that stay floats are cast to `dtype`."""
        weight = weight_name(name)
        if not self._is_quantized(weight):
            return self.source.read_lazy(name, rank, degree, dtype)
        spec = self.table[name]
        shape = spec.sharding.local_shape(spec.shape, rank, degree)
        part = QuantizedWeight._fields.index("values" if name == weight else "scale")
        return LazyTensor(
            np.dtype(spec.dtype), shape, lambda: (block[part] for block in self._blocks(weight, rank, degree))
        )

    def _is_quantized(self, name: str) -> bool:
        return name in self.source.table and self._quantization.applies_to(self.source.table[name])

    def _empty(self, name: str, rank: int, degree: int) -> Array:
        spec = self.table[name]
        return np.empty(spec.sharding.local_shape(spec.shape, rank, degree), spec.dtype)

    def _blocks(self, name: str, rank: int, degree: int) -> Iterator[QuantizedWeight]:
        """The rows of a weight in turn, quantised, as `rank` of `degree` holds them."""
        sharding = self.table[name].sharding
        # A scale is that of whole rows, whoever holds what part of them.
        is_row_parallel = sharding.axis == 1
        floats = (
            self.source.read_lazy(name, 0, 1)
            if is_row_parallel
            else self.source.read_lazy(name, rank, degree)
        )
        for rows in floats.chunks():
            values, scale = self._quantized(name, rows)
            yield QuantizedWeight(sharding.split(values, rank, degree) if is_row_parallel else values, scale)

    def _quantized(self, name: str, weight: Array) -> QuantizedWeight:
        try:
            return quantize(weight, self._quantization.bits, self._quantization.group_size)
        except InputError as error:
            raise InputError(f"{self.folder}: {name} cannot be quantised: {error}") from error
