"""Blockwise weight-only dequantised matmul.

Integer weights with scales (`paddle_glm.quantization`) are dequantised a block of rows at a time, with
arithmetic that every device, graph and exchange format has; half precision weights on a CPU are upcast the
same way. The float weight of a full layer never exists, and on a CPU a block stays in cache.
"""

from collections.abc import Iterator
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.paddle_types import Function

# Bytes of packed weights per block. On a CPU larger blocks leave the cache, and the system maps and unmaps
# their memory each time: up to 20 times slower. A graph has operators for every block, and loading it takes
# time that grows faster than their number (a second for 100, minutes for 500). GPUs want few large steps.
_BLOCK_BYTES_CPU = 1 << 19
_BLOCK_BYTES_GRAPH = 1 << 24
_BLOCK_BYTES_GPU = 1 << 26


def dequant_linear(x: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """x [..., in] @ dequantised weight [out, in].T -> [..., out], in the dtype of x.

    values: int8 [out, in], or [out, in / 2] for 4 bits; scale: float32 [out] or [out, groups]. Saves only
    values and scale for backward, no float weight; only x gets a gradient.
    """
    if paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not x.stop_gradient:
        return _DequantLinear.apply(x, values, scale, bits)
    return _blockwise_matmul(x, values, scale, bits)


def dequant_linear_transposed(grad: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """grad [..., out] @ dequantised weight [out, in] -> [..., in], in its dtype; without gradients."""
    if scale.ndim == 1:
        grad = grad * scale.astype(grad.dtype)
    sums: list[Tensor] = []
    start = 0
    for rows, scales in _row_blocks(values, scale):
        block = grad[..., start : start + rows.shape[0]]
        start += rows.shape[0]
        products = [
            paddle.matmul(block, weight) for weight in _dequantize_block(rows, scales, bits, grad.dtype)
        ]
        sums = products if not sums else [a + b for a, b in zip(sums, products, strict=True)]
    return _interleave(sums)


def upcast_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., in] @ half precision weight [out, in].T -> [..., out], in the dtype of x.

    Inference only: autograd would save every upcast block for backward.
    """
    results = [paddle.matmul(x, rows.astype(x.dtype), transpose_y=True) for (rows,) in _row_blocks(weight)]
    return results[0] if len(results) == 1 else paddle.concat(results, axis=-1)


def dequant_embedding(ids: Tensor, values: Tensor, scale: Tensor, bits: int, dtype: paddle.dtype) -> Tensor:
    """Embedding lookup: rows [..., in] of the dequantised weight for ids [...], in `dtype`."""
    rows = _interleave(_unpack(F.embedding(ids, values), bits, dtype))
    scales = F.embedding(ids, scale.reshape([scale.shape[0], -1])).astype(dtype).unsqueeze(-1)
    # (..., in) -> (..., groups, in / groups) and back
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
        return dequant_linear_transposed(grad, values, scale, ctx.bits).astype(ctx.dtype), None, None


def _blockwise_matmul(x: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """x [..., in] @ weight.T -> [..., out]."""
    x_halves = _deinterleave(x) if bits == 4 else (x,)
    results = []
    for rows, scales in _row_blocks(values, scale):
        pairs = zip(x_halves, _dequantize_block(rows, scales, bits, x.dtype), strict=True)
        products = [paddle.matmul(half, weight, transpose_y=True) for half, weight in pairs]
        results.append(products[0] if len(products) == 1 else products[0] + products[1])
    y = results[0] if len(results) == 1 else paddle.concat(results, axis=-1)
    return y * scale.astype(y.dtype) if scale.ndim == 1 else y


def _row_blocks(weight: Tensor, *scales: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of rows of a weight with the same rows of its scales, in order."""
    block_bytes = _BLOCK_BYTES_CPU if paddle.in_dynamic_mode() else _BLOCK_BYTES_GRAPH
    block_bytes = block_bytes if paddle.get_device() == "cpu" else _BLOCK_BYTES_GPU
    rows = max(1, block_bytes // (weight.shape[1] * weight.element_size()))
    if rows >= weight.shape[0]:
        yield weight, *scales
        return
    for start in range(0, weight.shape[0], rows):
        yield tuple(tensor[start : start + rows] for tensor in (weight, *scales))


def _dequantize_block(values: Tensor, scale: Tensor, bits: int, dtype: paddle.dtype) -> list[Tensor]:
    """Float weights [out, in], or for 4 bits those of the even and the odd inputs, [out, in / 2] each.

    Scales per group are applied; scales per output channel are left to the caller.
    """
    halves = _unpack(values, bits, dtype)
    if scale.ndim == 1:
        return halves
    outputs, width = halves[0].shape
    groups = scale.shape[1]
    # Expanded once for both halves: multiplying equal shapes is faster than broadcasting.
    expanded = scale.astype(dtype).unsqueeze(-1).expand([outputs, groups, width // groups])
    expanded = expanded.reshape([outputs, width])
    return [half * expanded for half in halves]


def _unpack(values: Tensor, bits: int, dtype: paddle.dtype) -> list[Tensor]:
    """int8 [..., n] as floats; for 4 bits the high and the low nibbles, [..., n] each."""
    packed = values.astype(dtype)
    if bits == 8:
        return [packed]
    # byte = 16 * high + low; rounding gives low in -8..7. All steps are exact in bfloat16 too.
    high = paddle.floor(paddle.scale(packed, 1 / 16))
    rounded = paddle.floor(paddle.scale(packed, 1 / 16, bias=0.5))
    return [high, packed - paddle.scale(rounded, 16.0)]


def _deinterleave(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., in] -> even and odd inputs, [..., in / 2] each."""
    return x[..., 0::2], x[..., 1::2]


def _interleave(halves: list[Tensor]) -> Tensor:
    """The inverse of `_deinterleave`; a single tensor is returned unchanged."""
    if len(halves) == 1:
        return halves[0]
    return paddle.stack(halves, axis=-1).flatten(-2)
