"""A KV cache layer in the order of the GPUs' fused decoding."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddle_glm.array_types import IntArray
from paddle_glm.kv_cache.tensors import BufferLayer
from paddle_glm.numpy_interop import step_tensor

_VECTOR_BYTES = 16


class DecodeLayer(BufferLayer):
    """A `BufferLayer` that fused decoding keeps in one buffer; for any other use it is what that is.

    The buffer, [2, batch, heads, capacity, head_dim], is that of `kernels.gpu.decode_attention`: values as
    they are, in front of them keys as [batch, heads, head_dim / n, capacity, n], n numbers being 16 bytes.
    """

    _buffer: Tensor | None = None

    def decode_buffer(self) -> tuple[Tensor, int]:
        """The buffer with room for one token more, which counts as in use, and the token's column."""
        past = self._length
        columns = past + 1 + self.spare(1)
        if self._buffer is None:
            assert self._key is not None and self._value is not None
            self._buffer = _joined(_vectors(self._used(self._key)), self._used(self._value), columns)
            self._key = self._value = None
        elif columns > self.capacity:
            self._buffer = _joined(*_parts(self._buffer), columns)
        self._length += 1
        return self._buffer, past

    @property
    def capacity(self) -> int:
        return super().capacity if self._buffer is None else self._buffer.shape[3]

    @property
    def nbytes(self) -> int:
        if self._buffer is None:
            return super().nbytes
        return self._buffer.size * self._buffer.element_size()

    @property
    def key_value(self) -> tuple[Tensor, Tensor]:
        if self._buffer is None:
            return super().key_value
        vectors, values = _parts(self._buffer)
        return self._used(_keys(vectors)), self._used(values)

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._buffer is not None:
            vectors, values = _parts(self._buffer)
            self._key, self._value, self._buffer = _keys(vectors), values.clone(), None
        return super().update(key, value)

    def replace(self, key: Tensor, value: Tensor) -> None:
        self._buffer = None
        super().replace(key, value)

    def select(self, rows: IntArray) -> None:
        if self._buffer is None:
            super().select(rows)
        else:
            self._buffer = paddle.index_select(self._buffer, step_tensor(rows), axis=1)


def _vectors(keys: Tensor) -> Tensor:
    """[batch, heads, columns, head_dim] -> [batch, heads, head_dim / n, columns, n]."""
    batch, heads, columns, size = keys.shape
    n = _VECTOR_BYTES // keys.element_size()
    return keys.reshape([batch, heads, columns, size // n, n]).transpose([0, 1, 3, 2, 4])


def _keys(vectors: Tensor) -> Tensor:
    """The inverse of `_vectors`."""
    batch, heads, count, columns, n = vectors.shape
    return vectors.transpose([0, 1, 3, 2, 4]).reshape([batch, heads, columns, count * n])


def _parts(buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the keys' vectors and of the values."""
    _, batch, heads, columns, size = buffer.shape
    n = _VECTOR_BYTES // buffer.element_size()
    return buffer[0].reshape([batch, heads, size // n, columns, n]), buffer[1]


def _joined(vectors: Tensor, values: Tensor, columns: int) -> Tensor:
    """A buffer of so many columns, of which those behind the given ones are zeros."""
    batch, heads, held, size = values.shape
    if more := columns - held:
        shape = [*vectors.shape[:3], more, vectors.shape[4]]
        vectors = paddle.concat([vectors, paddle.zeros(shape, dtype=vectors.dtype)], axis=3)
        values = paddle.concat([values, paddle.zeros([batch, heads, more, size], dtype=values.dtype)], axis=2)
    return paddle.stack([vectors.reshape(values.shape), values])
