"""Products with weights that are kept smaller than they are computed with.

Integers with scales (`paddle_glm.quantization`) become floats some rows at a time, by arithmetic that every
device, graph and exchange format has; so do half precision weights on a CPU: float weights of a whole layer
never exist, and on a CPU the few rows stay in its cache.
"""

from collections.abc import Iterator
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.paddle_types import Function

# Bytes of weights that become floats at once. Larger floats than these leave a CPU's cache, and then the
# system gives and takes their memory anew each time: up to 20 times slower. A graph holds every block, and
# the time to open one grows faster than their number (a second for 100, minutes for 500), so that there
# they are few; a GPU wants few large steps.
_BLOCK_BYTES_CPU = 1 << 19
_BLOCK_BYTES_GRAPH = 1 << 24
_BLOCK_BYTES_GPU = 1 << 26


def dequant_linear(x: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """x [..., in] times the transpose of the weight [out, in], in the dtype of x.

    values: int8 [out, in], or [out, in / 2] for 4 bits; scale: float32 [out] or [out, groups]. For backward
    nothing but these and no float weight is kept; x gets a gradient, they never do.
    """
    if paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not x.stop_gradient:
        return _DequantLinear.apply(x, values, scale, bits)
    return _blockwise_matmul(x, values, scale, bits)


def upcast_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] times the transpose of a weight [out, in] of half precision, in the dtype of x.

    For answers; in training every block would be kept for backward.
    """
    results = [paddle.matmul(x, rows.astype(x.dtype), transpose_y=True) for (rows,) in _row_blocks(weight)]
    return results[0] if len(results) == 1 else paddle.concat(results, axis=-1)


def dequant_embedding(ids: Tensor, values: Tensor, scale: Tensor, bits: int, dtype: paddle.dtype) -> Tensor:
    """Rows [..., in] of the weight, for ids [...] of an embedding, in `dtype`."""
    rows = _interleave(_unpack(F.embedding(ids, values), bits, dtype))
    scales = F.embedding(ids, scale.reshape([scale.shape[0], -1])).astype(dtype).unsqueeze(-1)
    # (..., in) -> (..., groups, inputs of a group) and back
    leading, groups, width = [0] * ids.ndim, scales.shape[-2], rows.shape[-1]
    return (rows.reshape([*leading, groups, width // groups]) * scales).reshape([*leading, width])


class _DequantLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.bits, ctx.dtype = bits, x.dtype
        return _blockwise_matmul(x, values, scale, bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        values, scale = ctx.saved_tensor()
        return _blockwise_matmul_untransposed(grad, values, scale, ctx.bits).astype(ctx.dtype), None, None


def _blockwise_matmul(x: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """x [..., in] -> [..., out]."""
    x_halves = _deinterleave(x) if bits == 4 else (x,)
    results = []
    for rows, scales in _row_blocks(values, scale):
        pairs = zip(x_halves, _dequantize_block(rows, scales, bits, x.dtype), strict=True)
        products = [paddle.matmul(side, weight, transpose_y=True) for side, weight in pairs]
        results.append(products[0] if len(products) == 1 else products[0] + products[1])
    y = results[0] if len(results) == 1 else paddle.concat(results, axis=-1)
    return y * scale.astype(y.dtype) if scale.ndim == 1 else y


def _blockwise_matmul_untransposed(y: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """y [..., out] -> [..., in], in the dtype of y."""
    if scale.ndim == 1:
        y = y * scale.astype(y.dtype)
    sums: list[Tensor] = []
    start = 0
    for rows, scales in _row_blocks(values, scale):
        part = y[..., start : start + rows.shape[0]]
        start += rows.shape[0]
        products = [paddle.matmul(part, weight) for weight in _dequantize_block(rows, scales, bits, y.dtype)]
        sums = products if not sums else [one + more for one, more in zip(sums, products, strict=True)]
    return _interleave(sums)


def _row_blocks(weight: Tensor, *scales: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows of a weight, and the same of what stands beside it (scales), in turn."""
    block_bytes = _BLOCK_BYTES_CPU if paddle.in_dynamic_mode() else _BLOCK_BYTES_GRAPH
    block_bytes = block_bytes if paddle.get_device() == "cpu" else _BLOCK_BYTES_GPU
    rows = max(1, block_bytes // (weight.shape[1] * weight.element_size()))
    if rows >= weight.shape[0]:
        yield weight, *scales
        return
    for start in range(0, weight.shape[0], rows):
        yield tuple(tensor[start : start + rows] for tensor in (weight, *scales))


def _dequantize_block(values: Tensor, scale: Tensor, bits: int, dtype: paddle.dtype) -> list[Tensor]:
    """Float weights of the even and of the odd inputs, [out, in / 2] each, or of all; channels' scales left
    out."""
    parts = _unpack(values, bits, dtype)
    if scale.ndim == 1:
        return parts
    outputs, width = parts[0].shape
    groups = scale.shape[1]
    # Spread once for both: a product of equal shapes is faster than one that spreads.
    expanded = scale.astype(dtype).unsqueeze(-1).expand([outputs, groups, width // groups])
    expanded = expanded.reshape([outputs, width])
    return [part * expanded for part in parts]


def _unpack(values: Tensor, bits: int, dtype: paddle.dtype) -> list[Tensor]:
    """What is packed in int8 [..., n], as floats: for 4 bits the high and the low halves of bytes."""
    both = values.astype(dtype)
    if bits == 8:
        return [both]
    # byte = 16 * high + low with low in -8..7 follows from rounding; all steps are exact in bfloat16 too.
    high = paddle.floor(paddle.scale(both, 1 / 16))
    rounded = paddle.floor(paddle.scale(both, 1 / 16, bias=0.5))
    return [high, both - paddle.scale(rounded, 16.0)]


def _deinterleave(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., in] -> the even and the odd inputs, [..., in / 2] each."""
    return x[..., 0::2], x[..., 1::2]


def _interleave(parts: list[Tensor]) -> Tensor:
    """The inverse of `_deinterleave`; a single part as it is."""
    if len(parts) == 1:
        return parts[0]
    return paddle.stack(parts, axis=-1).flatten(-2)
