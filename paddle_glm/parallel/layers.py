"""Linear layers and embeddings sharded over a process group as the family's parameter specs say.

Weights are [out_features, in_features], as in hub checkpoints, so nothing is transposed on loading and
saving. At degree 1 these are plain layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.kernels import operators
from paddle_glm.kernels.packing import has_kernel_order
from paddle_glm.kernels.usage import fused, multiplies_float32, uses_operators
from paddle_glm.numpy_interop import tensor_nbytes
from paddle_glm.parallel.collectives import (
    copy_to_group,
    reduce_from_group,
    reduce_replicated_grads,
)
from paddle_glm.parallel.dequant import (
    dequant_embedding,
    dequant_linear,
    dequant_linear_transposed,
    upcast_linear,
)
from paddle_glm.parallel.frozen_weights import frozen_linear, input_grad_only, linear_transposed
from paddle_glm.parallel.fused_weights import FusedWeight, new_fused_weight
from paddle_glm.parallel.group import ProcessGroup
from paddle_glm.parallel.kernel_weights import (
    TRAINING_ARITHMETIC,
    KernelOrderParameters,
    PackedWeight,
    can_be_packed,
    packed_linear,
    packed_linear_transposed,
)
from paddle_glm.parallel.sequence import SlicedLayer, gather_tokens, gathered_linear, reduce_scatter_tokens
from paddle_glm.precision import compute_dtype
from paddle_glm.quantization import WEIGHT, QuantizationConfig, quantize
from paddle_glm.sharding import ParameterSpec, Sharding
from paddle_glm.system import advise_huge_pages

# Parameters of fewer bytes gain nothing from huge pages.
_HUGE_PAGES_FROM = 4 << 20


class _Zeros(nn.initializer.Constant):
    """Zeros, on CPU in huge pages; with `fill_large` false large parameters there hold any numbers.

    Who loads them then touches their memory first: threads in parallel, and once instead of twice.
    """

    def __init__(self, fill_large: bool = True) -> None:
        super().__init__(0.0)
        self._fill_large = fill_large

    def forward(self, var: Any, block: Any = None) -> Any:
        if paddle.get_device() == "cpu" and tensor_nbytes(var) >= _HUGE_PAGES_FROM:
            memory = paddle.empty(var.shape, dtype=var.dtype)
            advise_huge_pages(memory.data_ptr(), tensor_nbytes(memory))
            memory._share_buffer_to(var)
            if not self._fill_large:
                return var
        return super().forward(var, block)


_ZEROS, _UNSET = _Zeros(), _Zeros(fill_large=False)


@dataclass(frozen=True)
class WeightFormat:
    """How weights are stored: `dtype` ("float16", ...), or quantised where `quantization` applies."""

    dtype: str
    quantization: QuantizationConfig | None = None

    @property
    def compute_dtype(self) -> paddle.dtype:
        """The dtype of activations."""
        return compute_dtype(getattr(paddle, self.dtype))

    def parameter_specs(self, spec: ParameterSpec) -> dict[str, ParameterSpec]:
        """{attribute: spec} of the parameters that store a weight."""
        if self.quantization is None or not self.quantization.applies_to(spec):
            return {WEIGHT: spec}
        return self.quantization.parameter_specs(spec)


def new_parameter(
    layer: nn.Layer,
    shape: tuple[int, ...],
    dtype: Any,
    distributed: bool = False,
    initializer: nn.initializer.Initializer = _ZEROS,
) -> Any:
    """A parameter of `shape`, zeros by default; `distributed` marks a shard for fleet."""
    parameter = layer.create_parameter(list(shape), dtype=dtype, default_initializer=initializer)
    parameter.is_distributed = distributed
    return parameter


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, training: bool = False) -> Tensor:
    """x [..., in] @ weight [out, in].T + bias [out] -> [..., out], in the dtype of x.

    On CPU half precision weights are multiplied with float32 activations. With a frozen weight x is not saved
    for backward. training: half precision weights are multiplied in `TRAINING_ARITHMETIC`.
    """
    if input_grad_only(weight, x):
        y = frozen_linear(x, weight)
    elif (weight.dtype != x.dtype or multiplies_float32(x)) and uses_operators():
        y = operators.float_linear(x, weight, TRAINING_ARITHMETIC if training else "auto")
    elif weight.dtype != x.dtype and paddle.in_dynamic_mode() and not paddle.is_grad_enabled():
        y = upcast_linear(x, weight)
    else:
        y = paddle.matmul(x, weight.astype(x.dtype), transpose_y=True)
    return y if bias is None else y + bias.astype(x.dtype)


class ParallelWeight(SlicedLayer):
    """A layer with this rank's shard of a weight [out, in]: `weight`, with `weight_scale` if quantised.

    spec: full shape and sharding of the float weight.
    """

    _parameters: KernelOrderParameters
    has_fused_product = True

    def __init__(self, spec: ParameterSpec, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self._parameters = KernelOrderParameters()
        self.spec, self.group = spec, group
        self.allocate_weight(weight_format)

    def allocate_weight(self, weight_format: WeightFormat) -> None:
        """Replace the parameters in `weight_format`; they are to be loaded."""
        rank, degree = self.group.rank, self.group.degree
        self.weight_format, specs = weight_format, weight_format.parameter_specs(self.spec)
        for name in [name for name in self._parameters if name.startswith(WEIGHT)]:
            delattr(self, name)
        for name, spec in specs.items():
            shape = spec.sharding.local_shape(spec.shape, rank, degree)
            is_sharded = degree > 1 and spec.sharding.axis is not None
            dtype = spec.dtype or weight_format.dtype
            setattr(self, name, new_parameter(self, shape, dtype, is_sharded, _UNSET))
        self.bits = 0
        if len(specs) > 1:
            assert weight_format.quantization is not None
            self.bits = weight_format.quantization.bits
            for name in specs:
                getattr(self, name).stop_gradient = True
        self.local_groups = self._local_groups() if self.bits else None
        self.product_placeholder: Tensor | None = None

    @contextmanager
    def product_placeholders(self) -> Iterator[None]:
        """Within it, traced products take a float weight without memory, `product_placeholder`, for integers.

        For an exporter, which puts an engine's own product in its place.
        """
        if not self.bits:
            yield
            return
        with paddle.LazyGuard():
            self.product_placeholder = new_parameter(self, self.spec.shape, self.weight_format.compute_dtype)
        try:
            yield
        finally:
            self.product_placeholder = None

    @paddle.no_grad()
    def quantize(self, weight_format: WeightFormat) -> None:
        """Quantise the unsharded weight in place if the quantization of `weight_format` applies to it."""
        quantization = weight_format.quantization
        if quantization is None or not quantization.applies_to(self.spec):
            return
        weight = self.weight.astype("float32").numpy()
        values, scale = quantize(weight, quantization.bits, quantization.group_size)
        self.allocate_weight(weight_format)
        self.weight.set_value(paddle.to_tensor(values))
        self.weight_scale.set_value(paddle.to_tensor(scale))

    def local_matmul(self, x: Tensor) -> Tensor:
        """x [..., in] @ this rank's shard.T -> [..., out], in the dtype of x."""
        if not self.bits:
            return linear(x, self.weight, training=self.training)
        if (weight := self.fused_weight(x)) is not None:
            return weight.linear(x)
        if (packed := self.packed_weight()) is not None:
            return packed_linear(x, packed, self.training)
        if self.product_placeholder is not None:
            return linear(x, self.product_placeholder)
        if self._traced_in_kernel_order():
            return operators.quantized_linear(x, self.weight, self.weight_scale, self.bits)
        return dequant_linear(x, self.weight, self._local_scale(), self.bits)

    def local_matmul_transposed(self, grad: Tensor) -> Tensor:
        """grad [..., out] @ this rank's shard -> [..., in], in the dtype of grad; without gradients."""
        if not self.bits:
            return linear_transposed(grad, self.weight)
        if (packed := self.packed_weight()) is not None:
            return packed_linear_transposed(grad, packed)
        return dequant_linear_transposed(grad, self.weight, self._local_scale(), self.bits)

    @property
    def trained_weight(self) -> Tensor | None:
        """This rank's shard; None where it is quantised or frozen."""
        return None if self.bits or self.weight.stop_gradient else self.weight

    def _reduce(self, y: Tensor) -> Tensor:
        """The sum of y over the group, or this rank's slice of it."""
        slices = self.token_group
        return reduce_scatter_tokens(y, slices) if slices.degree > 1 else reduce_from_group(y, self.group)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of this rank's shard for local ids [...], in the compute dtype."""
        if not self.bits:
            return F.embedding(ids, self.weight).astype(self.weight_format.compute_dtype)
        if (packed := self.packed_weight()) is not None:
            return operators.quantized_embedding(ids, packed.values, packed.scale, packed.bits)
        if self._traced_in_kernel_order():
            return operators.quantized_embedding(ids, self.weight, self.weight_scale, self.bits)
        return dequant_embedding(
            ids, self.weight, self._local_scale(), self.bits, self.weight_format.compute_dtype
        )

    def packed_weight(self) -> PackedWeight | None:
        """The quantised weight in kernel order; None where the native kernels do not compute with it."""
        if not paddle.in_dynamic_mode():
            return None
        packed = self._parameters.packed
        if isinstance(packed, PackedWeight):
            return packed
        return self._parameters.pack(PackedWeight, self.kernel_order_weight)

    def fused_weight(self, x: Tensor) -> FusedWeight | None:
        """The quantised weight for a GPU's fused product with x; None where it does not take them."""
        gradient = paddle.is_grad_enabled() and not x.stop_gradient
        if not self.has_fused_product or self.training or gradient or not fused(x):
            return None
        weight = self._parameters.pack(
            FusedWeight, lambda: new_fused_weight(self.weight, self._local_scale(), self.bits, x.dtype)
        )
        return weight if weight is not None and weight.dtype == x.dtype else None

    def linear_weight(self, x: Tensor) -> operators.LinearWeight | None:
        """This rank's shard for the native operators; None where they do not multiply x [..., in] by it."""
        if not self.bits:
            multiplied = self.weight_format.dtype != "float32" or multiplies_float32(x)
            return operators.LinearWeight(self.weight) if multiplied else None
        if (packed := self.packed_weight()) is not None:
            return packed.linear_weight
        if self._traced_in_kernel_order():
            return operators.LinearWeight(self.weight, self.weight_scale, self.bits)
        return None

    def kernel_order_weight(self) -> PackedWeight | None:
        """What permutes the quantised weight into kernel order; None where the kernels do not take it."""
        if not self.bits:
            return None
        values, scale = self.weight, self.weight_scale
        inputs = values.shape[1] * 8 // self.bits
        if not can_be_packed(values, inputs, self._local_group_size(), self.bits):
            return None
        return PackedWeight(values, scale, self.bits, self.local_groups)

    def set_packed_weight(self, weight: PackedWeight) -> None:
        """Take over what `kernel_order_weight` gave, once it is packed."""
        self._parameters.packed = weight

    def _traced_in_kernel_order(self) -> bool:
        """Whether a graph is being traced that takes the whole weight in kernel order (`export`)."""
        return uses_operators() and has_kernel_order(self.spec.shape[1], self._local_group_size(), self.bits)

    def _local_scale(self) -> Tensor:
        """Scale of this rank's shard, float32 [out] or [out, groups of the local inputs]."""
        scale: Tensor = self.weight_scale
        if self.local_groups is not None:
            scale = self.weight_scale[:, self.local_groups]
        return scale

    def _local_groups(self) -> slice | list[int] | None:
        """Indices of the quantization groups of the local inputs; None: all groups.

        If a shard boundary splits a group, every group is treated as several smaller ones of equal size.
        """
        assert self.weight_format.quantization is not None
        size, step = self.weight_format.quantization.group_size, self._local_group_size()
        if size is None or step is None or self.spec.sharding.axis != 1 or self.group.degree == 1:
            return None
        ((start, stop),) = self.spec.sharding.local_ranges(self.group.rank, self.group.degree)
        if step == size:
            return slice(start // size, stop // size)
        return [offset // size for offset in range(start, stop, step)]

    def _local_group_size(self) -> int | None:
        """Local inputs per scale; None: one scale per output."""
        assert self.weight_format.quantization is not None
        size = self.weight_format.quantization.group_size
        if size is None or self.spec.sharding.axis != 1:
            return size
        ((start, stop),) = self.spec.sharding.local_ranges(self.group.rank, self.group.degree)
        return gcd(size, start, stop)


class ColumnParallelLinear(ParallelWeight):
    """Output features are sharded over the group: x [..., in] (replicated) -> [..., out_local].

    Gradients of replicated rows (with more ranks than key/value groups) are summed over their replicas.
    """

    def __init__(
        self,
        in_features: int,
        sharding: Sharding,
        group: ProcessGroup,
        weight_format: WeightFormat,
        bias: bool = False,
    ) -> None:
        super().__init__(ParameterSpec((sharding.size, in_features), sharding), group, weight_format)
        self.replicated_rows = tuple(
            (start, stop, replicas)
            for start, stop, replicas in sharding.replica_ranges(group.rank, group.degree)
            if stop is not None and replicas > 1
        )
        shape = (sharding.local_size(group.degree),)
        self.bias = new_parameter(self, shape, weight_format.dtype, group.degree > 1) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        slices = self.token_group
        if slices.degree > 1 and not self.bits and not self.weight.stop_gradient:
            weight = reduce_replicated_grads(self.weight, self.replicated_rows, self.group)
            y = gathered_linear(x, weight, slices)
        else:
            x = gather_tokens(x, slices) if slices.degree > 1 else copy_to_group(x, self.group)
            y = self._matmul(x)
        bias: Tensor | None = self.bias
        if bias is None:
            return y
        return y + reduce_replicated_grads(bias, self.replicated_rows, self.group).astype(y.dtype)

    def _matmul(self, x: Tensor) -> Tensor:
        if self.bits:
            return self.local_matmul(x)
        weight = reduce_replicated_grads(self.weight, self.replicated_rows, self.group)
        return linear(x, weight, training=self.training)


class RowParallelLinear(ParallelWeight):
    """Input features are sharded over the group: x [..., in_local] -> [..., out] (summed over the group).

    The bias is replicated and added once, after the reduction.
    """

    def __init__(
        self,
        out_features: int,
        sharding: Sharding,
        group: ProcessGroup,
        weight_format: WeightFormat,
        bias: bool = False,
    ) -> None:
        super().__init__(ParameterSpec((out_features, sharding.size), sharding), group, weight_format)
        self.bias = new_parameter(self, (out_features,), weight_format.dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = self._reduce(self.local_matmul(x))
        return y if self.bias is None else y + copy_to_group(self.bias, self.token_group).astype(y.dtype)


class VocabParallelEmbedding(ParallelWeight):
    """The vocabulary is sharded over the group: ids [...] -> [..., hidden], in the compute dtype."""

    has_fused_product = False  # rows are looked up in the hub's order

    def __init__(
        self, hidden_size: int, sharding: Sharding, group: ProcessGroup, weight_format: WeightFormat
    ) -> None:
        super().__init__(ParameterSpec((sharding.size, hidden_size), sharding), group, weight_format)
        self.local_vocab_size = sharding.local_size(group.degree)

    def forward(self, ids: Tensor) -> Tensor:
        if self.group.degree == 1:
            return self.lookup(ids)
        local = ids - self.group.rank * self.local_vocab_size
        in_shard = paddle.logical_and(local >= 0, local < self.local_vocab_size)
        rows = self.lookup(paddle.where(in_shard, local, paddle.zeros_like(local)))
        return self._reduce(rows * in_shard.unsqueeze(-1).astype(rows.dtype))
