"""Quantise a float checkpoint while it is read."""

import threading
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
    """The part of `Checkpoint` that quantisation reads."""

    @property
    def folder(self) -> Path: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def parameter_specs(self) -> dict[str, ParameterSpec]: ...
    def read_into(self, out: Array, name: str, rank: int = 0, degree: int = 1) -> None: ...
    def read_lazy(
        self, name: str, rank: int = 0, degree: int = 1, dtype: DType | None = None
    ) -> LazyTensor: ...


def quantize_on_load(
    checkpoint: Checkpoint, bits: int | None, group_size: int | None = None, embeddings: bool = False
) -> "Checkpoint | QuantizingCheckpoint":
    """Wrap a float checkpoint to be quantised; return it unchanged if `bits` is None or it already matches.

    Raises `InputError` if it is already quantised in another way, or if options are given without `bits`.
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
        f"{checkpoint.folder} is already quantised to {existing.bits} bits "
        f"(group_size {existing.group_size or 0}): pass its float model to quantise it differently, or omit "
        "the quantization flags"
    )


class QuantizingCheckpoint:
    """A `Checkpoint` of the quantised model, made from a float one.

    Weights are read and quantised in blocks of rows, so no full float weight is ever in memory.
    """

    def __init__(
        self, source: FloatCheckpoint, bits: int, group_size: int | None = None, embeddings: bool = False
    ) -> None:
        """Options as in `Family.quantized_config`, which raises `InputError` for invalid ones."""
        family = family_of(source.config)
        self.source, self.folder = source, Path(source.folder)
        self.config = family.quantized_config(source.config, bits, group_size, embeddings)
        self.parameter_specs = family.parameters(self.config)
        quantization = quantization_of(self.config)
        assert quantization is not None
        self._quantization = quantization
        # `scale` of each thread: {(name, rank, degree): that of the weight read last}; usually it is next.
        self._cached = threading.local()

    def names(self) -> list[str]:
        """Names of all parameters; tensors of the source that the model ignores are left out."""
        return list(self.parameter_specs)

    def read(self, name: str, rank: int = 0, degree: int = 1) -> Array:
        """The shard of a quantised tensor for tensor-parallel rank `rank` of `degree`."""
        tensor = self.read_lazy(name, rank, degree)
        values = np.empty(tensor.shape, tensor.dtype)
        self.read_into(values, name, rank, degree)
        return values

    def read_into(self, out: Array, name: str, rank: int = 0, degree: int = 1) -> None:
        """Like `read`, into a C-contiguous array; unquantised floats are cast to its dtype."""
        if (cached := getattr(self._cached, "scale", {}).pop((name, rank, degree), None)) is not None:
            out[...] = cached
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
            self._cached.scale = {(scale_name(weight), rank, degree): scale}

    def read_lazy(self, name: str, rank: int = 0, degree: int = 1, dtype: DType | None = None) -> LazyTensor:
        """Like `read`, as chunks; unquantised floats are cast to `dtype`."""
        weight = weight_name(name)
        if not self._is_quantized(weight):
            return self.source.read_lazy(name, rank, degree, dtype)
        spec = self.parameter_specs[name]
        shape = spec.sharding.local_shape(spec.shape, rank, degree)
        field = QuantizedWeight._fields.index("values" if name == weight else "scale")
        return LazyTensor(
            np.dtype(spec.dtype),
            shape,
            lambda: (block[field] for block in self._blocks(weight, rank, degree)),
        )

    def _is_quantized(self, name: str) -> bool:
        return name in self.source.parameter_specs and self._quantization.applies_to(
            self.source.parameter_specs[name]
        )

    def _empty(self, name: str, rank: int, degree: int) -> Array:
        spec = self.parameter_specs[name]
        return np.empty(spec.sharding.local_shape(spec.shape, rank, degree), spec.dtype)

    def _blocks(self, name: str, rank: int, degree: int) -> Iterator[QuantizedWeight]:
        """Quantised blocks of rows of the shard for `rank` of `degree`, in order."""
        sharding = self.parameter_specs[name].sharding
        # Scales belong to full rows, so row-parallel weights are quantised before they are sharded.
        is_row_parallel = sharding.axis == 1
        floats = self.source.read_lazy(name, *((0, 1) if is_row_parallel else (rank, degree)))
        for rows in floats.chunks():
            values, scale = self._quantized(name, rows)
            yield QuantizedWeight(sharding.split(values, rank, degree) if is_row_parallel else values, scale)

    def _quantized(self, name: str, weight: Array) -> QuantizedWeight:
        try:
            return quantize(weight, self._quantization.bits, self._quantization.group_size)
        except InputError as error:
            raise InputError(f"{self.folder}: {name} cannot be quantised: {error}") from error
