"""The KV cache inside an exported graph with native operators."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddle_glm.array_types import IntArray
from paddle_glm.kernels import operators
from paddle_glm.kv_cache.cache import KeyValue
from paddle_glm.kv_cache.tensors import PADDLE, InPlaceCache


class GraphLayer(InPlaceCache):
    """A layer's cache in a graph that is being traced: inputs that the graph's operators write to.

    key, value: float32 [batch, heads, capacity, head_dim], with room for the step's tokens; past: int64 [1],
    the number of columns in use. The graph only appends: what holds the buffers knows their length.
    """

    library = PADDLE

    def __init__(self, key: Tensor, value: Tensor, past: Tensor) -> None:
        self._key, self._value, self._past = key, value, past

    def reserve(self, batch: int, heads: int, tokens: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
        return self._key, self._value, self._past

    def update(self, key: Tensor, value: Tensor) -> KeyValue:
        """As `LayerCache.update`; copies, for families that do not use `layers.attention.attend`."""
        past = operators.append_cache(key, value, self._key, self._value, self._past)
        end = past + paddle.shape(key)[2]
        return self._key[:, :, :end], self._value[:, :, :end]

    def spare(self, tokens: int) -> int:
        return 0

    @property
    def length(self) -> int:
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        raise NotImplementedError

    @property
    def key_value(self) -> KeyValue:
        raise NotImplementedError

    def replace(self, key: Tensor, value: Tensor) -> None:
        raise NotImplementedError

    def select(self, rows: IntArray) -> None:
        raise NotImplementedError
