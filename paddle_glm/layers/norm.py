"""Normalisation of the last axis, in float32 whatever the weights are stored in."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.parallel.frozen import frozen_scale, is_frozen
from paddle_glm.parallel.layers import new_parameter
from paddle_glm.precision import full_precision


class RMSNorm(nn.Layer):
    """Root mean square normalisation (arXiv:1910.07467).

    x [..., size] / sqrt(mean(x^2) + epsilon) * weight, in float32; the result has x's dtype.
    """

    def __init__(self, size: int, epsilon: float, dtype: str) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = new_parameter(self, (size,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision():
            wide = x.astype("float32")
            scale = paddle.rsqrt(wide.square().mean(axis=-1, keepdim=True) + self.epsilon)
            return _weighted(wide * scale, self.weight).astype(x.dtype)


class LayerNorm(nn.Layer):
    """(x [..., size] - mean) / sqrt(variance + epsilon) * weight + bias (arXiv:1607.06450), in x's dtype."""

    def __init__(self, size: int, epsilon: float, dtype: str) -> None:
        super().__init__()
        self.size, self.epsilon = size, epsilon
        self.weight = new_parameter(self, (size,), dtype)
        self.bias = new_parameter(self, (size,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision():
            # Given a frozen weight, Paddle 3.3.1's kernel computes a wrong gradient of x on CPU.
            normal = F.layer_norm(x.astype("float32"), [self.size], epsilon=self.epsilon)
            return (_weighted(normal, self.weight) + self.bias.astype("float32")).astype(x.dtype)


def _weighted(normal: Tensor, weight: Tensor) -> Tensor:
    """normal [..., size] times weight [size], float32; for a frozen weight `normal` is not kept."""
    if is_frozen(weight, normal):
        return frozen_scale(normal, weight)
    return normal * weight.astype("float32")
