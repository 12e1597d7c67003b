"""Root mean square normalisation (arXiv:1910.07467)."""

import paddle
from paddle import Tensor, nn

from paddle_glm.parallel.layers import new_parameter
from paddle_glm.precision import full_precision


class RMSNorm(nn.Layer):
    """x [..., size] / sqrt(mean(x^2) + epsilon) * weight, in float32; the result has x's dtype."""

    def __init__(self, size: int, epsilon: float, dtype: str) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = new_parameter(self, (size,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision():
            wide = x.astype("float32")
            scale = paddle.rsqrt(wide.square().mean(axis=-1, keepdim=True) + self.epsilon)
            return (wide * scale * self.weight.astype("float32")).astype(x.dtype)
