"""Dtypes by their safetensors names, and tensors that are made piece by piece while they are written."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.mapped_file import release_pages
from paddle_glm.errors import InputError

DTYPES: dict[str, DType] = {
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
SAFETENSORS_FLOAT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Large enough for fast writes, small enough to stay in the cache between copying, hashing and writing.
CHUNK_BYTES = 4 << 20
# Turning rows into columns reads a strip of every row: wider strips read longer runs. Square tiles stay in
# the cache: twice as fast as numpy's own copy of a transpose.
_TRANSPOSE_BUFFER_BYTES = 32 << 20
_TILE = 64


def safetensors_dtype_name(dtype: Any) -> str:
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
    `transposed_chunks` does the same for the transpose, where its maker can do that without the whole.
    """

    dtype: DType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Array]]
    transposed_chunks: Callable[[], Iterable[Array]] | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class ConcatenatedRows:
    """Arrays one below another, which files keep apart; joined where they are read.

    Stands in for an array of the same shape wherever rows are taken.
    """

    def __init__(self, pieces: Sequence[Array]) -> None:
        self.pieces = tuple(pieces)
        self.dtype = self.pieces[0].dtype
        self.itemsize = self.dtype.itemsize
        self.shape = (sum(piece.shape[0] for piece in self.pieces), *self.pieces[0].shape[1:])
        if any((piece.dtype, piece.shape[1:]) != (self.dtype, self.shape[1:]) for piece in self.pieces):
            shapes = ", ".join(f"{piece.dtype} {piece.shape}" for piece in self.pieces)
            raise InputError(f"parts of one tensor do not fit together: {shapes}")

    def __getitem__(self, rows: slice | tuple[slice]) -> Array:
        """Rows start to stop: a view where they lie in one piece."""
        start, stop, _ = (rows[0] if isinstance(rows, tuple) else rows).indices(self.shape[0])
        found = []
        for piece in self.pieces:
            if start < len(piece) and stop > 0:
                found.append(piece[max(start, 0) : stop])
            start, stop = start - len(piece), stop - len(piece)
        if not found:
            return self.pieces[0][:0]
        return found[0] if len(found) == 1 else np.concatenate(found)


# What a checkpoint keeps of a tensor.
StoredTensor = Array | ConcatenatedRows


def row_blocks(stored: StoredTensor) -> Iterator[Array]:
    """The rows of a tensor in turn, a few MiB at a time, so that a file is never in memory whole."""
    if isinstance(stored, ConcatenatedRows):
        for piece in stored.pieces:
            yield from row_blocks(piece)
    elif stored.ndim == 0:
        yield stored
    elif stored.flags.c_contiguous or stored.ndim == 1:
        rows = max(1, CHUNK_BYTES // max(1, stored.itemsize * prod(stored.shape[1:])))
        for start in range(0, len(stored), rows):
            yield stored[start : start + rows]
            release_pages(stored)
    elif stored.ndim == 2:
        yield from transposed_blocks([stored.T])
    else:
        yield np.ascontiguousarray(stored)


def transposed_blocks(pieces: Sequence[Array]) -> Iterator[Array]:
    """The transpose of two-dimensional arrays one below another, some rows at a time in one buffer."""
    width, length = sum(len(piece) for piece in pieces), pieces[0].shape[1]
    rows = max(1, _TRANSPOSE_BUFFER_BYTES // max(1, width * pieces[0].itemsize))
    buffer = np.empty((min(rows, length), width), pieces[0].dtype)
    for start in range(0, length, rows):
        block = buffer[: min(rows, length - start)]
        offset = 0
        for piece in pieces:
            _transpose_into(piece[:, start : start + len(block)], block[:, offset : offset + len(piece)])
            offset += len(piece)
            release_pages(piece)
        yield block


def _transpose_into(source: Array, target: Array) -> None:
    for row in range(0, target.shape[0], _TILE):
        for column in range(0, target.shape[1], _TILE):
            tile = source[column : column + _TILE, row : row + _TILE]
            target[row : row + _TILE, column : column + _TILE] = tile.T


def as_lazy(tensor: Any) -> LazyTensor:
    """A `LazyTensor` as it is; anything numpy understands as an array, wrapped."""
    if isinstance(tensor, LazyTensor):
        return tensor
    array = np.asarray(tensor)
    return LazyTensor(array.dtype, array.shape, lambda: [array])


def transposed(tensor: LazyTensor) -> LazyTensor:
    """The transpose of a two-dimensional tensor; where need be, writing it holds the tensor."""
    chunks = tensor.transposed_chunks or (lambda: transposed_blocks([_materialize(tensor)]))
    return LazyTensor(tensor.dtype, tensor.shape[::-1], chunks)


def _materialize(tensor: LazyTensor) -> Array:
    """All chunks of a tensor as one array."""
    whole = np.empty(tensor.shape, tensor.dtype)
    copy_chunks(tensor.chunks(), whole)
    return whole


def copy_chunks(chunks: Iterable[Array], out: Array) -> None:
    """Fill a C-contiguous array with chunks in turn; raises ValueError where they do not fill it."""
    flat, filled = out.reshape(-1), 0
    for chunk in chunks:
        flat[filled : filled + chunk.size] = chunk.reshape(-1)
        filled += chunk.size
    if filled != flat.size:
        raise ValueError(f"{filled} numbers for an array of {flat.size}")


def raw_bytes(array: Array) -> memoryview:
    """The bytes of an array in C order; no copy where it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def cast_chunks(chunks: Iterable[Array], dtype: DType, name: str) -> Iterable[Array]:
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


def _check_overflow(before: Array, after: Array, name: str) -> None:
    lost = np.isfinite(before.astype(np.float32)) & ~np.isfinite(after)
    if lost.any():
        value = float(before[lost][0])
        raise InputError(f"{name} holds {value:g}, which float16 cannot (at most 65504): use bfloat16")
