"""Quantised weights of layers in the order of the native CPU kernels, and products with them.

A weight is permuted in its own memory, so it is never held twice. Whatever reads a layer's parameters
(saving, moving, copying, exporting) finds the hub's order: `KernelOrderParameters` permutes them back first.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Any, TypeVar

import paddle
from paddle import Tensor

from paddle_glm.kernels import operators
from paddle_glm.kernels.packing import has_kernel_order, pack, unpack
from paddle_glm.numpy_interop import cpu_view
from paddle_glm.paddle_types import Function
from paddle_glm.parallel.fused_weights import FusedWeight
from paddle_glm.quantization import SCALE, WEIGHT

# With activations rounded to int8, gradients would be those of another function than the loss computes.
TRAINING_ARITHMETIC = "float32"
_QUANTIZED = (WEIGHT, SCALE)
_LOCK = RLock()
_Weight = TypeVar("_Weight", "PackedWeight", FusedWeight)


class PackedWeight:
    """Values and scale of a quantised weight, which `pack` permutes into kernel order and `unpack` back.

    values: int8 [out, in * bits / 8]; scale: float32 [out] or [out, groups]. local_groups: the groups of the
    values' inputs, if these are some of a whole weight's; their scales are copied.
    """

    def __init__(
        self, values: Tensor, scale: Tensor, bits: int, local_groups: slice | list[int] | None = None
    ) -> None:
        self.values, self.scale, self.bits = values, scale, bits
        self._whole_scale, self._local_groups = cpu_view(scale), local_groups
        if local_groups is not None:
            shape = self._whole_scale[:, local_groups].shape
            self.scale = paddle.empty(shape, dtype="float32")

    @property
    def linear_weight(self) -> operators.LinearWeight:
        return operators.LinearWeight(self.values, self.scale, self.bits)

    def pack(self) -> None:
        """Hub order -> kernel order; uses no Paddle, so that any thread may call it."""
        scale = cpu_view(self.scale)
        if self._local_groups is not None:
            scale[...] = self._whole_scale[:, self._local_groups]
        pack(cpu_view(self.values), scale, self.bits)

    def unpack(self) -> None:
        """Kernel order -> hub order."""
        unpack(cpu_view(self.values), cpu_view(self.scale), self.bits)


class KernelOrderParameters(OrderedDict[str, Any]):
    """Parameters of a layer, of which a quantised weight may be in another order: `packed`, else None.

    Reading that weight or its scale, or all parameters, returns them in the hub's order, and `packed` becomes
    None. A tensor taken from here is in the hub's order until the layer's next use.
    """

    packed: PackedWeight | FusedWeight | None = None

    def pack(self, kind: type[_Weight], new_weight: Callable[[], _Weight | None]) -> _Weight | None:
        """`packed` of that kind, or if nothing is packed what `new_weight` gives, permuted; else None."""
        with _LOCK:
            if self.packed is None and (weight := new_weight()) is not None:
                weight.pack()
                self.packed = weight
            return self.packed if isinstance(self.packed, kind) else None

    def unpack(self) -> None:
        """Permute the weight into the hub's order unless it is."""
        with _LOCK:
            if self.packed is not None:
                self.packed.unpack()
                self.packed = None

    def __getitem__(self, name: str) -> Any:
        if name in _QUANTIZED:
            self.unpack()
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in _QUANTIZED:
            self.unpack()
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self.unpack()
        super().__delitem__(name)

    def items(self) -> Any:
        self.unpack()
        return super().items()

    def values(self) -> Any:
        self.unpack()
        return super().values()

    def __reduce__(self) -> Any:  # for copies
        self.unpack()
        return super().__reduce__()


def can_be_packed(values: Tensor, in_features: int, group_size: int | None, bits: int) -> bool:
    """Whether the kernels take a weight of these inputs per scale (None: all) where its values are."""
    return values.place.is_cpu_place() and has_kernel_order(in_features, group_size, bits)


def packed_linear(x: Tensor, weight: PackedWeight, training: bool) -> Tensor:
    """x [..., in] @ weight [out, in].T -> [..., out], in the dtype of x; only x gets a gradient.

    training: compute in `TRAINING_ARITHMETIC`, as with gradients.
    """
    dtype = x.dtype
    if dtype != paddle.float32:
        return packed_linear(x.astype("float32"), weight, training).astype(dtype)
    operands = (x, weight.values, weight.scale, weight.bits)
    if not paddle.is_grad_enabled():
        return operators.quantized_linear(*operands, TRAINING_ARITHMETIC if training else "auto")
    if x.stop_gradient:
        return operators.quantized_linear(*operands, TRAINING_ARITHMETIC)
    return _PackedLinear.apply(*operands)


def packed_linear_transposed(grad: Tensor, weight: PackedWeight) -> Tensor:
    """grad float32 [..., out] @ weight [out, in] -> [..., in]; without gradients."""
    operands = (weight.values, weight.scale, weight.bits, TRAINING_ARITHMETIC)
    return operators.quantized_linear_transposed(grad.contiguous(), *operands)


class _PackedLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.bits = bits
        return operators.quantized_linear(x, values, scale, bits, TRAINING_ARITHMETIC)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        values, scale = ctx.saved_tensor()
        grad_x = operators.quantized_linear_transposed(
            grad.contiguous(), values, scale, ctx.bits, TRAINING_ARITHMETIC
        )
        return grad_x, None, None
