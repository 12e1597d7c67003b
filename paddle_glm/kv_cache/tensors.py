"""KV cache layers of Paddle tensors: buffers written in place, and a trained prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import paddle
from paddle import Tensor

from paddle_glm.array_types import Array, IntArray
from paddle_glm.kv_cache.arrays import ArrayLibrary
from paddle_glm.numpy_interop import step_tensor

BLOCK = 128  # columns by which a buffer grows: one copy of it every so many tokens


def _take(tensor: Tensor, rows: IntArray) -> Tensor:
    return paddle.index_select(tensor, step_tensor(rows), axis=0)


def _concat(tensors: Sequence[Tensor], axis: int) -> Tensor:
    return paddle.concat(list(tensors), axis=axis)


def _zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    return paddle.zeros(list(shape), dtype=like.dtype)


def _nbytes(tensor: Tensor) -> int:
    return tensor.size * tensor.element_size()


def _asarray(array: Array, dtype: str) -> Tensor:
    return step_tensor(array).astype(getattr(paddle, dtype))


PADDLE = ArrayLibrary(_take, _concat, _zeros, _nbytes, _asarray)


class InPlaceCache:
    """A layer whose buffers the native operators write to (`kernels.operators`)."""

    def reserve(self, batch: int, heads: int, tokens: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Buffers [batch, heads, capacity, head_dim] of keys and values with room for so many tokens more,
        which count as in use, and the first of their columns, int64 [1].
        """
        raise NotImplementedError


class BufferLayer(InPlaceCache):
    """Keys and values of one layer in buffers [batch, heads, capacity, head_dim] that are written in place.

    For inference only, without gradients. Attention reads the whole buffers, because every matmul would copy
    a slice of their columns. Prefill allocates buffers of the prompt's length; decoding grows them by blocks.
    Columns in use are never overwritten, so earlier results of `key_value` stay valid.
    """

    library = PADDLE

    def __init__(self, key: Tensor | None = None, value: Tensor | None = None, block: int = BLOCK) -> None:
        """key, value: initial columns, copied before the first write."""
        self._block = block
        self._length = 0
        self._key, self._value = key, value
        if key is not None:
            self._length = key.shape[2]

    @property
    def length(self) -> int:
        return self._length

    @property
    def capacity(self) -> int:
        """Allocated columns."""
        return 0 if self._key is None else self._key.shape[2]

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(one) for one in (self._key, self._value) if one is not None)

    @property
    def key_value(self) -> tuple[Tensor, Tensor]:
        assert self._key is not None and self._value is not None
        return self._used(self._key), self._used(self._value)

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        tokens = key.shape[2]
        if self._key is None or self._value is None:
            # Views of the fused projection would keep it in memory.
            self._key, self._value = key.contiguous(), value.contiguous()
        elif self._length + tokens > self.capacity:
            spare = self.spare(tokens)
            self._key = self._grown(self._key, key, spare)
            self._value = self._grown(self._value, value, spare)
        else:
            self._key[:, :, self._length : self._length + tokens] = key
            self._value[:, :, self._length : self._length + tokens] = value
        self._length += tokens
        return self._key, self._value

    def reserve(self, batch: int, heads: int, tokens: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        past = self._length
        if past + tokens > self.capacity:
            columns = past + tokens + self.spare(tokens)
            self._key = self._enlarged(self._key, [batch, heads, columns, head_dim])
            self._value = self._enlarged(self._value, [batch, heads, columns, head_dim])
        self._length = past + tokens
        assert self._key is not None and self._value is not None
        return self._key, self._value, _column(past)

    def spare(self, tokens: int) -> int:
        length = self._length + tokens
        if length <= self.capacity:
            return self.capacity - length
        return -length % self._block if self.capacity else 0

    def replace(self, key: Tensor, value: Tensor) -> None:
        self._key, self._value, self._length = key, value, key.shape[2]

    def select(self, rows: IntArray) -> None:
        assert self._key is not None and self._value is not None
        self._key = _take(self._key, rows)
        self._value = _take(self._value, rows)

    def _used(self, buffer: Tensor) -> Tensor:
        return buffer if buffer.shape[2] == self._length else buffer[:, :, : self._length]

    def _enlarged(self, buffer: Tensor | None, shape: list[int]) -> Tensor:
        if buffer is None:
            return paddle.empty(shape, dtype="float32")
        batch, heads, columns, size = shape
        # Zeros, because who does not use the operators multiplies unused columns too.
        spare = paddle.zeros([batch, heads, columns - self._length, size], dtype="float32")
        return _concat([self._used(buffer), spare], 2)

    def _grown(self, buffer: Tensor, new: Tensor, spare: int) -> Tensor:
        # Assigning many columns to a slice is ten times slower than concatenation on a CPU (Paddle 3.3.1).
        batch, heads, _, size = new.shape
        return _concat([self._used(buffer), new, _zeros([batch, heads, spare, size], new)], 2)


@lru_cache(maxsize=4)
def _column(number: int) -> Tensor:
    """int64 [1]; all layers of a step ask for the same."""
    return paddle.full([1], number, dtype="int64")


@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of a trained prefix: a cache's first columns; all tokens attend to them, without
    positions.

    key_values: batch -> for each layer (key, value), [batch, local key/value heads, length, head_dim].
    """

    length: int
    key_values: Callable[[int], tuple[tuple[Tensor, Tensor], ...]]
