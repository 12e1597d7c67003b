"""Dtypes by safetensors name, and tensors produced chunk by chunk while they are written."""

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
# Names in configs and on command lines -> safetensors names, for the dtypes that weights are cast to.
SAFETENSORS_FLOAT_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Large enough for fast writes, small enough to stay in the CPU cache while copied, hashed and written.
CHUNK_BYTES = 4 << 20
# Transposing reads a strip of every row: wider strips give longer sequential reads. Square tiles stay in
# the CPU cache: twice as fast as numpy's copy of a transpose.
_TRANSPOSE_BUFFER_BYTES = 32 << 20
_TILE = 64


def safetensors_dtype_name(dtype: Any) -> str:
    """The safetensors name of a numpy dtype; raises InputError for an unsupported one."""
    name = DTYPE_NAMES.get(np.dtype(dtype))
    if name is None:
        raise InputError(f"dtype {dtype} cannot be saved: expected one of {', '.join(map(str, DTYPE_NAMES))}")
    return name


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose values are produced when it is written.

    chunks: yields arrays of `dtype` that, concatenated in C order, are the tensor. A chunk is valid until
    the next one is requested, so that a producer may reuse its buffer.
    transposed_chunks: the same for the transpose, if it can be produced without the full tensor in memory.
    """

    dtype: DType
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Array]]
    transposed_chunks: Callable[[], Iterable[Array]] | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class ConcatenatedRows:
    """Arrays from different files concatenated along axis 0, copied only when read.

    Behaves as an array of that shape for row slices.
    """

    def __init__(self, pieces: Sequence[Array]) -> None:
        self.pieces = tuple(pieces)
        self.dtype = self.pieces[0].dtype
        self.itemsize = self.dtype.itemsize
        self.shape = (sum(piece.shape[0] for piece in self.pieces), *self.pieces[0].shape[1:])
        if any((piece.dtype, piece.shape[1:]) != (self.dtype, self.shape[1:]) for piece in self.pieces):
            shapes = ", ".join(f"{piece.dtype} {piece.shape}" for piece in self.pieces)
            raise InputError(f"pieces of one tensor do not match: {shapes}")

    def __getitem__(self, rows: slice | tuple[slice]) -> Array:
        """Rows start to stop; a view if one piece has them all."""
        start, stop, _ = (rows[0] if isinstance(rows, tuple) else rows).indices(self.shape[0])
        blocks = []
        for piece in self.pieces:
            if start < len(piece) and stop > 0:
                blocks.append(piece[max(start, 0) : stop])
            start, stop = start - len(piece), stop - len(piece)
        if not blocks:
            return self.pieces[0][:0]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


# A tensor of a checkpoint file: usually a view of the mapped file.
StoredTensor = Array | ConcatenatedRows


def row_blocks(stored: StoredTensor) -> Iterator[Array]:
    """Blocks of rows of a few MiB, in order, so that a file is never in memory as a whole."""
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
    """The transpose of 2-D arrays concatenated along axis 0, as blocks of rows in one reused buffer."""
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
    """Wrap anything that numpy accepts as an array; a `LazyTensor` is returned unchanged."""
    if isinstance(tensor, LazyTensor):
        return tensor
    array = np.asarray(tensor)
    return LazyTensor(array.dtype, array.shape, lambda: [array])


def transposed(tensor: LazyTensor) -> LazyTensor:
    """The transpose of a 2-D tensor; without `transposed_chunks`, writing it holds the full tensor."""
    chunks = tensor.transposed_chunks or (lambda: transposed_blocks([_materialize(tensor)]))
    return LazyTensor(tensor.dtype, tensor.shape[::-1], chunks)


def _materialize(tensor: LazyTensor) -> Array:
    """All chunks of a tensor as one array."""
    array = np.empty(tensor.shape, tensor.dtype)
    copy_chunks(tensor.chunks(), array)
    return array


def copy_chunks(chunks: Iterable[Array], out: Array) -> None:
    """Copy chunks in order into a C-contiguous array; raises ValueError if they are too few to fill it."""
    flat, filled = out.reshape(-1), 0
    for chunk in chunks:
        flat[filled : filled + chunk.size] = chunk.reshape(-1)
        filled += chunk.size
    if filled != flat.size:
        raise ValueError(f"{filled} numbers for an array of {flat.size}")


def raw_bytes(array: Array) -> memoryview:
    """The bytes of an array in C order; no copy if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def cast_chunks(chunks: Iterable[Array], dtype: DType, name: str) -> Iterable[Array]:
    """Chunks cast to `dtype`, a few MiB at a time.

    Raises InputError if a finite value overflows float16.
    """
    for chunk in chunks:
        flat = np.ascontiguousarray(chunk).reshape(-1)
        step = CHUNK_BYTES // flat.itemsize
        for start in range(0, flat.size, step):
            piece = flat[start : start + step]
            with np.errstate(over="ignore"):
                cast = piece.astype(dtype)
            # Only float16 has a smaller range than the other float dtypes.
            if dtype == np.float16 and not np.isfinite(cast).all():
                _check_overflow(piece, cast, name)
            yield cast


def _check_overflow(before: Array, after: Array, name: str) -> None:
    overflowed = np.isfinite(before.astype(np.float32)) & ~np.isfinite(after)
    if overflowed.any():
        value = float(before[overflowed][0])
        raise InputError(f"{name} contains {value:g}, which overflows float16 (at most 65504): use bfloat16")
