"""Collectives as autograd functions (Megatron-LM, arXiv:1909.08053, section 3).

All are the identity in a group of one process.
"""

from collections.abc import Callable
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.numpy_interop import step_tensor
from paddle_glm.paddle_types import Function
from paddle_glm.parallel.group import ProcessGroup


def all_reduce(x: Tensor, group: ProcessGroup, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """`x` reduced over the group, as a new tensor of the same shape and dtype.

    On CPU half precision is reduced in float32: gloo adds the bit patterns of float16, and accumulates
    bfloat16 in bfloat16.
    """
    on_cpu = not x.place.is_gpu_place()
    if on_cpu and x.dtype in (paddle.float16, paddle.bfloat16):
        return all_reduce(x.astype("float32"), group, op).astype(x.dtype)
    if group.shared is not None and op == dist.ReduceOp.SUM and x.dtype == paddle.float32:
        return group.shared.sum(x)
    buffer = x.contiguous().clone()  # process groups refuse strided views and reduce in place
    dist.all_reduce(buffer, op=op, group=group.handle)
    return buffer


def start_all_reduce(x: Tensor, group: ProcessGroup) -> Callable[[], Tensor]:
    """Begin to sum `x`, contiguous, over the group; returns what waits for the sum, which may overwrite `x`.

    With NCCL the sum runs beside what is computed until then, and waiting does not stop the host: the stream
    of the computation waits for that of the communication. On a CPU it is done before this returns. Every
    rank has to begin the same sums in the same order.
    """
    if not x.place.is_gpu_place():
        total = all_reduce(x, group)
        return lambda: total
    task = dist.all_reduce(x, group=group.handle, sync_op=False)

    def wait() -> Tensor:
        task.wait()
        return x

    return wait


def all_gather_last_axis(x: Tensor, group: ProcessGroup) -> Tensor:
    """[..., n] on each rank -> [..., n * degree], in rank order."""
    shards: list[Tensor] = []
    if group.shared is not None:
        shards = list(group.shared.gather(x).unbind(0))
    else:
        dist.all_gather(shards, x.contiguous(), group=group.handle)
    return paddle.concat(shards, axis=-1)


def broadcast_array(values: Array, group: ProcessGroup) -> Array:
    """`values` (int64, same shape on every rank) of the group's rank 0, on every rank."""
    if group.degree == 1:
        return values
    if group.shared is not None:
        first: Array = group.shared.gather_array(values)[0]
        return first
    tensor = step_tensor(values)
    dist.broadcast(tensor, src=group.src_rank, group=group.handle)
    return tensor.numpy()


class _CopyToGroup(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.clone()  # a PyLayer that returns its input counts it as written in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce(grad, ctx.group)


class _ReduceFromGroup(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        return all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()


class _GatherFromGroup(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group, ctx.size = group, x.shape[-1]
        return all_gather_last_axis(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        start = ctx.group.rank * ctx.size
        return grad[..., start : start + ctx.size].contiguous()


class _ReduceReplicatedGrads(Function):
    """The identity on a weight some of whose rows are replicated on several ranks.

    Backward: sums the gradients of those rows over their replicas. One all-reduce of a buffer with a slot
    per distinct block serves all, so that no process groups of replicas are needed.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, replicated_rows: tuple[tuple[int, int, int], ...], group: ProcessGroup
    ) -> Tensor:
        ctx.replicated_rows, ctx.group = replicated_rows, group
        return weight.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        group, grad = ctx.group, grad.clone()
        blocks = [grad[start:stop] for start, stop, _ in ctx.replicated_rows]
        num_slots = [group.degree // replicas for _, _, replicas in ctx.replicated_rows]
        own_slots = [group.rank // replicas for _, _, replicas in ctx.replicated_rows]
        buffer = paddle.concat(
            [
                block if slot == own else paddle.zeros_like(block)
                for block, count, own in zip(blocks, num_slots, own_slots, strict=True)
                for slot in range(count)
            ]
        )
        buffer = all_reduce(buffer, group)
        offset = 0
        for (start, stop, _), count, own in zip(ctx.replicated_rows, num_slots, own_slots, strict=True):
            rows = stop - start
            grad[start:stop] = buffer[offset + own * rows : offset + (own + 1) * rows]
            offset += count * rows
        return grad


def copy_to_group(x: Tensor, group: ProcessGroup) -> Tensor:
    """Forward: the identity. Backward: the gradient summed over the group."""
    return x if group.degree == 1 else _CopyToGroup.apply(x, group)


def reduce_from_group(x: Tensor, group: ProcessGroup) -> Tensor:
    """Forward: the sum over the group. Backward: the identity."""
    return x if group.degree == 1 else _ReduceFromGroup.apply(x, group)


def gather_from_group(x: Tensor, group: ProcessGroup) -> Tensor:
    """[..., n] -> [..., n * degree]. Backward: each rank's slice of the gradient."""
    return x if group.degree == 1 else _GatherFromGroup.apply(x, group)


def reduce_replicated_grads(
    weight: Tensor, replicated_rows: tuple[tuple[int, int, int], ...], group: ProcessGroup
) -> Tensor:
    """Forward: the identity. Backward: gradients of replicated rows are summed over their replicas.

    replicated_rows: (start, stop, replicas) of local rows that several consecutive ranks hold.
    """
    if not replicated_rows or weight.stop_gradient:
        return weight
    return _ReduceReplicatedGrads.apply(weight, replicated_rows, group)
