"""Normalisation of the last axis, in float32 for every weight dtype."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels import gpu, operators, training
from paddle_glm.kernels.usage import fused, uses_operators
from paddle_glm.parallel.collectives import copy_to_group
from paddle_glm.parallel.frozen_weights import frozen_scale, input_grad_only
from paddle_glm.parallel.layers import new_parameter
from paddle_glm.parallel.sequence import SlicedLayer
from paddle_glm.precision import autocast_disabled


class RMSNorm(SlicedLayer):
    """Root mean square normalisation (arXiv:1910.07467).

    x [..., size] / sqrt(mean(x^2) + epsilon) * weight, in float32; the result has x's dtype.
    """

    def __init__(self, size: int, epsilon: float, dtype: str) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = new_parameter(self, (size,), dtype)

    @property
    def operands(self) -> tuple[Tensor, float]:
        """Weight and epsilon, for operators that normalise too."""
        return self.weight, self.epsilon

    def forward(self, x: Tensor) -> Tensor:
        if uses_operators():
            return operators.rms_norm(x, self.weight, self.epsilon)
        weight = copy_to_group(self.weight, self.token_group)  # of slices, whose gradients are summed
        if training.usable(x, weight):
            return training.rms_norm(x, weight, self.epsilon)
        if fused(x, weight):
            return gpu.rms_norm(x, weight, self.epsilon)
        with autocast_disabled():
            x_float32 = x.astype("float32")
            scale = paddle.rsqrt(x_float32.square().mean(axis=-1, keepdim=True) + self.epsilon)
            return _scale_by_weight(x_float32 * scale, weight).astype(x.dtype)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """x + residual, and its normalisation."""
        if uses_operators():
            return operators.add_rms_norm(x, residual, self.weight, self.epsilon)
        if not paddle.is_grad_enabled() and fused(x, residual, self.weight):
            return gpu.add_rms_norm(x, residual, self.weight, self.epsilon)
        total = x + residual
        return total, self(total)


class LayerNorm(SlicedLayer):
    """(x [..., size] - mean) / sqrt(variance + epsilon) * weight + bias (arXiv:1607.06450), in x's dtype."""

    def __init__(self, size: int, epsilon: float, dtype: str) -> None:
        super().__init__()
        self.size, self.epsilon = size, epsilon
        self.weight = new_parameter(self, (size,), dtype)
        self.bias = new_parameter(self, (size,), dtype)

    def forward(self, x: Tensor) -> Tensor:
        with autocast_disabled():
            if not paddle.is_grad_enabled() and fused(x, self.weight, self.bias):
                return gpu.layer_norm(x, self.weight, self.bias, self.epsilon)
            # With a frozen weight, Paddle 3.3.1's CPU kernel computes a wrong gradient of x.
            normalized = F.layer_norm(x.astype("float32"), [self.size], epsilon=self.epsilon)
            # Of slices the gradients are summed.
            weight, bias = (copy_to_group(one, self.token_group) for one in (self.weight, self.bias))
            return (_scale_by_weight(normalized, weight) + bias.astype("float32")).astype(x.dtype)


def _scale_by_weight(normalized: Tensor, weight: Tensor) -> Tensor:
    """normalized [..., size] * weight [size], float32; a frozen weight does not save `normalized`."""
    if input_grad_only(weight, normalized):
        return frozen_scale(normalized, weight)
    return normalized * weight.astype("float32")
