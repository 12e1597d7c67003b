"""Activation functions."""

import math
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels import gpu, operators, training
from paddle_glm.kernels.usage import fused, uses_operators
from paddle_glm.paddle_types import Function


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU, tanh approximation (arXiv:1606.08415), of any shape.

    In a traced graph it is written as x * sigmoid(2 z) with 0.5 (1 + tanh(z)) = sigmoid(2 z): paddle2onnx
    2.1 converts Paddle's operator to the exact GELU, whatever its `approximate` says.
    """
    if paddle.in_dynamic_mode():
        return F.gelu(x, approximate=True)
    double = 2.0 * math.sqrt(2.0 / math.pi)
    return x * F.sigmoid(x * (double + double * 0.044715 * x * x))


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv:2002.05202), gate and up concatenated: [..., 2 * n] -> [..., n].

    Saves only `gate_up` for backward.
    """
    if training.usable(gate_up):
        return training.swiglu(gate_up)
    if fused(gate_up):
        return gpu.swiglu(gate_up)
    if paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not gate_up.stop_gradient:
        return _SwiGLUFunction.apply(gate_up)
    return operators.swiglu(gate_up) if uses_operators() else _swiglu_forward(gate_up)


def _swiglu_forward(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, axis=-1)
    return F.silu(gate) * up


class _SwiGLUFunction(Function):
    """Forward as in the original: Paddle's swiglu rounds differently (by 1.2e-5 in recorded logits)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _swiglu_forward(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensor()
        ctx.container = None  # otherwise it stays in memory until the whole graph is freed
        with paddle.enable_grad():
            detached = gate_up.detach()
            detached.stop_gradient = False
            grad_input: Tensor = paddle.grad(F.swiglu(detached), detached, grad)[0]
        return grad_input
