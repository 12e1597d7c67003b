"""Operations with frozen weights that save only the weight for backward.

Paddle's operators save both operands, so the input of every frozen layer would stay in memory for a weight
gradient that is never computed.
"""

from typing import Any

import paddle
from paddle import Tensor

from paddle_glm.kernels import operators
from paddle_glm.kernels.usage import uses_operators
from paddle_glm.paddle_types import Function
from paddle_glm.parallel.kernel_weights import TRAINING_ARITHMETIC


def input_grad_only(weight: Tensor, x: Tensor) -> bool:
    """Whether backward will need the gradient of x but not of the weight."""
    return (
        paddle.in_dynamic_mode() and paddle.is_grad_enabled() and weight.stop_gradient and not x.stop_gradient
    )


def frozen_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] @ frozen weight [out, in].T -> [..., out], in the dtype of x (or of mixed precision)."""
    return _FrozenLinear.apply(x, weight)


def linear_transposed(grad: Tensor, weight: Tensor) -> Tensor:
    """grad [..., out] @ weight [out, in] -> [..., in], in the dtype of grad; without gradients."""
    if _has_operator(grad, weight):
        return operators.float_linear_transposed(grad, weight, TRAINING_ARITHMETIC)
    product: Tensor = paddle.matmul(grad, weight.astype(grad.dtype))
    return product


def frozen_scale(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., size] * frozen weight [size], float32."""
    return _FrozenScale.apply(x, weight)


def _has_operator(x: Tensor, weight: Tensor) -> bool:
    """Whether the native operators multiply x and the weight; inside of a PyLayer, without gradients."""
    return weight.dtype != paddle.float32 and x.dtype == paddle.float32 and uses_operators()


class _FrozenLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = x.dtype
        if _has_operator(x, weight):
            return operators.float_linear(x, weight, TRAINING_ARITHMETIC)
        product: Tensor = paddle.matmul(x, weight.astype(x.dtype), transpose_y=True)
        return product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensor()
        return linear_transposed(grad, weight).astype(ctx.dtype), None


class _FrozenScale(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x * weight.astype("float32")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensor()
        return grad * weight.astype("float32"), None
