"""Paddle's fused GPU operators: the only calls of them, with their layouts.

`usage.fused` says where they compute. Their signatures are those of the 3.3.1 wheel; each docstring names the
source of the kernel (PaddlePaddle/Paddle, 3.3). Activations are float16 or bfloat16, of the weight's dtype;
kernels round once, at their end.
"""

import paddle.nn.functional as F
from paddle import Tensor
from paddle.incubate.nn.functional import fused_rms_norm, fused_rotary_position_embedding


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x [..., size] / sqrt(mean(x^2) + epsilon) * weight [size], with gradients of both.

    phi/kernels/gpu/rms_norm_cuda_kernel.h: saves x and a float32 per row; a frozen weight gets no gradient.
    """
    return F.rms_norm(x, [x.shape[-1]], weight, epsilon)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + residual [..., size], and its `rms_norm`; without gradients.

    phi/kernels/gpu/rms_norm_kernel.cu (ResidualAddBiasLoad): normalises the rounded sum.
    """
    axis = x.ndim - 1
    y, total = fused_rms_norm(x, weight, None, epsilon, begin_norm_axis=axis, residual=residual)[:2]
    return total, y


def swiglu(x: Tensor) -> Tensor:
    """silu(first half of the last axis) * second half, [..., 2 * n] -> [..., n], with a gradient; saves x.

    phi/kernels/gpu/swiglu_kernel.cu.
    """
    return F.swiglu(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool) -> Tensor:
    """x * cos + rotated x * sin, with a gradient of x.

    x: [batch, tokens, heads, size], any strides; cos, sin: [batch, tokens, size], of x's dtype.
    adjacent: channels 2i and 2i + 1 are a pair (Paddle's "neox" style), else i and i + size / 2; the rotated
    first of a pair is minus the second, the rotated second is the first.
    phi/kernels/fusion/gpu/fused_rope_utils.h: a row of cos and sin per position, the same in every row of the
    batch; so all tokens are passed as one row.
    """
    batch, tokens, heads, size = x.shape
    row = [1, batch * tokens, heads, size]
    table = [1, batch * tokens, 1, size]
    rotated = fused_rotary_position_embedding(
        x.reshape(row),
        sin=sin.reshape(table),
        cos=cos.reshape(table),
        use_neox_rotary_style=adjacent,
    )[0]
    return rotated.reshape([batch, tokens, heads, size])
