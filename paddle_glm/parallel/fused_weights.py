"""Quantised weights of layers in the order of the GPUs' fused product."""

from functools import cache

import paddle
from paddle import Tensor

from paddle_glm.kernels import gpu, gpu_packing
from paddle_glm.kernels.library import report


class FusedWeight:
    """Values and scale of a quantised weight on a GPU, for products with x of `dtype`.

    values: int8 [out, in * bits / 8], which `pack` permutes into the product's order and `unpack` back;
    scale: float32 [out] or [out, groups], of which a copy in the product's layout is kept.
    """

    def __init__(self, values: Tensor, scale: Tensor, bits: int, dtype: paddle.dtype) -> None:
        self.values, self.bits, self.dtype = values, bits, dtype
        self._group_size = group_size(values, scale, bits)
        self._scale = (scale if scale.ndim == 1 else scale.t().contiguous()).astype(dtype)

    @paddle.no_grad()
    def pack(self) -> None:
        """Hub order -> the product's."""
        paddle.assign(gpu_packing.pack(self.values, self.bits), self.values)

    @paddle.no_grad()
    def unpack(self) -> None:
        """The product's order -> hub order."""
        paddle.assign(gpu_packing.unpack(self.values, self.bits), self.values)

    def linear(self, x: Tensor) -> Tensor:
        """x [..., in] @ weight [out, in].T -> [..., out]."""
        return gpu.quantized_linear(x, self.values, self._scale, self.bits, self._group_size)


def new_fused_weight(values: Tensor, scale: Tensor, bits: int, dtype: paddle.dtype) -> FusedWeight | None:
    """The weight for the fused product; None, with one line on stderr, where that does not take it."""
    inputs = values.shape[1] * 8 // bits
    obstacle = gpu.product_obstacle(values.shape[0], inputs, group_size(values, scale, bits))
    if obstacle is None:
        return FusedWeight(values, scale, bits, dtype)
    _report_once(f"int{bits} weights are dequantised in every product: {obstacle}")
    return None


def group_size(values: Tensor, scale: Tensor, bits: int) -> int | None:
    """Inputs per scale; None: one scale per output."""
    return None if scale.ndim == 1 else values.shape[1] * 8 // bits // int(scale.shape[1])


@cache
def _report_once(message: str) -> None:
    report(message)
