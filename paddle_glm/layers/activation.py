"""Activation functions."""

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (arXiv:1606.08415), of any shape.

    In a traced graph it is written out, as x * sigmoid(2 z) with 0.5 (1 + tanh(z)) = sigmoid(2 z):
    paddle2onnx 2.1 makes the exact GELU of Paddle's operator, whatever its `approximate` says.
    """
    if paddle.in_dynamic_mode():
        return F.gelu(x, approximate=True)
    double = 2.0 * math.sqrt(2.0 / math.pi)
    return x * F.sigmoid(x * (double + double * 0.044715 * x * x))
