"""What backends share whose cache is a list of Paddle tensors."""

from collections.abc import Sequence

import numpy as np
import paddle

from paddle_glm.backends.kv_cache import KVCacheBackend


class PaddleKVCacheBackend(KVCacheBackend):
    def take(self, tensor: paddle.Tensor, rows: np.ndarray) -> paddle.Tensor:
        return paddle.index_select(tensor, paddle.to_tensor(rows), axis=0)

    def concat(self, tensors: Sequence[paddle.Tensor], axis: int) -> paddle.Tensor:
        return paddle.concat(list(tensors), axis=axis)

    def zeros(self, shape: Sequence[int], like: paddle.Tensor) -> paddle.Tensor:
        return paddle.zeros(list(shape), dtype=like.dtype)
