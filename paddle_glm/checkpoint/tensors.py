"""Dtypes by their safetensors names, and tensors that are made piece by piece while they are written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from paddle_glm.errors import InputError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What configs and command lines call the dtypes that weights are cast between.
FLOAT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Large enough for fast writes, small enough to stay in the cache between copying, hashing and writing.
CHUNK_BYTES = 4 << 20


def dtype_name(dtype: Any) -> str:
    """The safetensors name of a numpy dtype; raises InputError for one that files cannot hold."""
    name = DTYPE_NAMES.get(np.dtype(dtype))
    if name is None:
        raise InputError(f"dtype {dtype} cannot be saved: expected one of {', '.join(map(str, DTYPE_NAMES))}")
    return name


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose bytes are made when they are written.

    `chunks` gives arrays of `dtype` whose elements, one after another in C order, make up the tensor.
    A chunk is valid until the next one is asked for, so that a producer may reuse its buffer.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def as_lazy(tensor: Any) -> LazyTensor:
    """A `LazyTensor` as it is; anything numpy understands as an array, wrapped."""
    if isinstance(tensor, LazyTensor):
        return tensor
    array = np.asarray(tensor)
    return LazyTensor(array.dtype, array.shape, lambda: [array])


def raw_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order; no copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def cast_chunks(chunks: Iterable[np.ndarray], dtype: np.dtype, name: str) -> Iterable[np.ndarray]:
    """Chunks cast to `dtype`, a few MiB at a time.

    Raises InputError where a finite value does not fit into float16.
    """
    for chunk in chunks:
        flat = np.ascontiguousarray(chunk).reshape(-1)
        step = CHUNK_BYTES // flat.itemsize
        for start in range(0, flat.size, step):
            piece = flat[start : start + step]
            with np.errstate(over="ignore"):
                cast = piece.astype(dtype)
            # Only float16 has a smaller range than the others.
            if dtype == np.float16 and not np.isfinite(cast).all():
                _check_overflow(piece, cast, name)
            yield cast


def _check_overflow(before: np.ndarray, after: np.ndarray, name: str) -> None:
    lost = np.isfinite(before.astype(np.float32)) & ~np.isfinite(after)
    if lost.any():
        value = float(before[lost][0])
        raise InputError(f"{name} holds {value:g}, which float16 cannot (at most 65504): use bfloat16")
