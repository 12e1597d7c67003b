"""Sequence parallelism (arXiv:2205.05198): between the sharded layers each rank has a slice of the tokens.

A sharded layer gathers the slices of its input, or adds its output and keeps a slice of the sum, where it
would otherwise reduce a gradient or its output: the same bytes are sent. Norms, dropout, residuals and what
they save are of the slice alone.
"""

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddle_glm.paddle_types import Function, TensorLayer
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.group import SINGLE_PROCESS, ProcessGroup


class SlicedLayer(TensorLayer):
    """A layer that in training may get or give the rank's slice of tokens, [batch, tokens / degree, ...]."""

    sequence_group: ProcessGroup = SINGLE_PROCESS

    @property
    def token_group(self) -> ProcessGroup:
        """The ranks that have a slice each; a single process where this one has all tokens."""
        return self.sequence_group if self.training else SINGLE_PROCESS


def slice_tokens(model: nn.Layer, group: ProcessGroup) -> None:
    """Let all layers that can share out the tokens over the group in training."""
    for layer in model.sublayers(include_self=True):
        if isinstance(layer, SlicedLayer):
            layer.sequence_group = group


def pad_tokens(tensor: Tensor, columns: int, value: int = 0, axis: int = -1) -> Tensor:
    """`tensor` with so many columns of `value` behind the last one of the axis."""
    shape = list(tensor.shape)
    shape[axis] = columns
    return paddle.concat([tensor, paddle.full(shape, value, dtype=tensor.dtype)], axis=axis)


def gather_tokens(x: Tensor, group: ProcessGroup) -> Tensor:
    """[batch, tokens / degree, ...] -> [batch, tokens, ...]. Backward: a slice of the summed gradients."""
    return _GatherTokens.apply(x, group)


def reduce_scatter_tokens(x: Tensor, group: ProcessGroup) -> Tensor:
    """[batch, tokens, ...] -> a slice of the sum, [batch, tokens / degree, ...]. Backward: gathers."""
    return _ReduceScatterTokens.apply(x, group)


def gathered_linear(x: Tensor, weight: Tensor, group: ProcessGroup) -> Tensor:
    """Slices of x [batch, tokens / degree, in] @ weight [out, in].T -> [batch, tokens, out].

    Saves the slice, and gathers it again for the weight's gradient.
    """
    return _GatheredLinear.apply(x, weight, group)


class _GatherTokens(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _gather(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _reduce_scatter(grad, ctx.group)


class _ReduceScatterTokens(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return _reduce_scatter(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _gather(grad, ctx.group)


class _GatheredLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: ProcessGroup) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group = group
        product: Tensor = paddle.matmul(_gather(x, group), weight.astype(x.dtype), transpose_y=True)
        return product

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensor()
        whole = _gather(x.astype(grad.dtype), ctx.group)
        rows, columns = grad.reshape([-1, grad.shape[-1]]), whole.reshape([-1, whole.shape[-1]])
        weight_grad = paddle.matmul(rows, columns, transpose_x=True).astype(weight.dtype)
        grad_x = _reduce_scatter(paddle.matmul(grad, weight.astype(grad.dtype)), ctx.group)
        return grad_x.astype(x.dtype), weight_grad


def _gather(x: Tensor, group: ProcessGroup) -> Tensor:
    """[batch, slice, ...] -> [batch, tokens, ...]."""
    batch, size, *rest = x.shape
    if group.shared is not None:
        parts = group.shared.gather(x)
    else:
        parts = paddle.empty([group.degree * batch, size, *rest], dtype=x.dtype)
        dist.stream.all_gather(parts, x.contiguous(), group=group.handle)
        parts = parts.reshape([group.degree, batch, size, *rest])
    # (degree, batch, slice, ...) -> (batch, degree * slice, ...)
    return parts.transpose([1, 0, *range(2, parts.ndim)]).reshape([batch, group.degree * size, *rest])


def _reduce_scatter(x: Tensor, group: ProcessGroup) -> Tensor:
    """[batch, tokens, ...] -> [batch, slice, ...] of the sum."""
    batch, tokens, *rest = x.shape
    size = tokens // group.degree
    if not x.place.is_gpu_place():  # gloo has no reduce-scatter
        return all_reduce(x, group)[:, group.rank * size : (group.rank + 1) * size].contiguous()
    # (batch, degree * slice, ...) -> (degree, batch, slice, ...), of which a rank gets its row
    parts = x.reshape([batch, group.degree, size, *rest]).transpose([1, 0, *range(2, x.ndim + 1)])
    own = paddle.empty([batch, size, *rest], dtype=x.dtype)
    parts = parts.contiguous().reshape([group.degree * batch, size, *rest])
    dist.stream.reduce_scatter(own, parts, group=group.handle)
    return own
