"""ZeRO stages 1 and 2 (arXiv:1910.02054): optimizer state and gradients partitioned over data-parallel ranks.

Every trained parameter is owned by one rank of the data-parallel group. Only the owner holds its moments and
master weights; it updates the parameter and broadcasts it. At stage 2 only the owner keeps the reduced
gradient. Parameters are partitioned whole, so that results are those of plain data parallelism.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.parallel import ProcessGroup
from paddle_glm.training.gradients import BUCKET_NUMEL, iter_buckets, max_in_flight, unflatten_like
from paddle_glm.training.optimizer import FusedAdamW

_HALF_DTYPES = (paddle.float16, paddle.bfloat16)


def assign_owners(sizes: Sequence[int], degree: int) -> list[int]:
    """The owning rank of each item, so that the ranks' sums of sizes are nearly equal.

    Greedy: the largest item first, each to the least loaded rank (the lowest of equals). Deterministic, so
    that all ranks compute the same.
    """
    loads = [0] * degree
    owners = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += sizes[index]
    return owners


def optimizer_state_bytes(parameter: Tensor) -> int:
    """Bytes of AdamW's state: two float32 moments, and float32 master weights for half precision."""
    return parameter.size * (12 if parameter.dtype in _HALF_DTYPES else 8)


class OptimizerStatePartition:
    """The trained parameters in the model's order, and the rank of `group` that owns each."""

    def __init__(self, parameters: Sequence[Tensor], group: ProcessGroup) -> None:
        self.parameters = [parameter for parameter in parameters if not parameter.stop_gradient]
        self.group = group
        owners = assign_owners(
            [optimizer_state_bytes(parameter) for parameter in self.parameters], group.degree
        )
        self.owner = {parameter.name: owner for parameter, owner in zip(self.parameters, owners, strict=True)}

    def owned_by(self, rank: int) -> list[Tensor]:
        """Parameters that a rank of the group owns."""
        return [parameter for parameter in self.parameters if self.owner[parameter.name] == rank]

    @paddle.no_grad()
    def broadcast_parameters(self) -> None:
        """Broadcast every parameter from its owner to the group."""
        for owner in range(self.group.degree):
            for bucket in iter_buckets(self.owned_by(owner)):
                flat = paddle.concat([parameter.detach().flatten() for parameter in bucket])
                dist.broadcast(flat, src=self.group.handle.ranks[owner], group=self.group.handle)
                if owner != self.group.rank:
                    received: list[Any] = bucket
                    for parameter, values in zip(received, unflatten_like(flat, bucket), strict=True):
                        parameter.copy_(values, False)  # without waiting for the device


class ShardedAdamW(FusedAdamW):
    """AdamW over the parameters that this rank owns; `step` also broadcasts the updated ones, if asked to."""

    def __init__(
        self, state_partition: OptimizerStatePartition, broadcasts: bool = True, **options: Any
    ) -> None:
        super().__init__(parameters=state_partition.owned_by(state_partition.group.rank), **options)
        self._partition, self._broadcasts = state_partition, broadcasts

    def step(self) -> None:
        if self._parameter_list:
            super().step()
        elif self._grad_clip is not None:
            self._grad_clip([])  # the norm is an all-reduce in which every rank takes part
        if self._broadcasts:
            self._partition.broadcast_parameters()

    def clear_grad(self, set_to_zero: bool = False) -> None:
        """Release the gradients of all parameters, also of those that other ranks own."""
        for parameter in self._partition.parameters:
            parameter.clear_gradient(False)


class GradientReducer:
    """Stage 2: reduces each gradient to its owner during backward, and releases it on the other ranks.

    Owners accumulate the gradients of one optimizer step. Gradients are reduced in every batch, not once per
    step: more communication with accumulation, but no rank ever holds all gradients. With NCCL a bucket is
    reduced beside the computation of the next ones.
    """

    def __init__(self, state_partition: OptimizerStatePartition) -> None:
        """Registers a backward hook on every parameter of the partition."""
        self._partition = state_partition
        self._reduced: dict[str, Tensor] = {}
        self._is_last = True
        self._in_flight: deque[tuple[int, list[Tensor], Callable[[], Tensor]]] = deque()
        self._pending: list[list[Tensor]] = [[] for _ in range(state_partition.group.degree)]
        self._pending_numel = [0] * state_partition.group.degree
        for parameter in state_partition.parameters:
            parameter._register_backward_hook(partial(self._on_gradient_ready, parameter))

    def begin_backward(self, is_last: bool) -> None:
        """Say before a backward pass whether its gradients are the last before the optimizer's step."""
        self._is_last = is_last

    def _on_gradient_ready(self, parameter: Tensor) -> None:
        """Backward hook; called in the same order on every rank."""
        owner = self._partition.owner[parameter.name]
        self._pending[owner].append(parameter)
        self._pending_numel[owner] += parameter.size
        if self._pending_numel[owner] >= BUCKET_NUMEL:
            self._reduce(owner)

    def finish_backward(self) -> None:
        """Reduce what is pending after a backward pass; after the last one, set the owned gradients."""
        for owner in range(self._partition.group.degree):
            self._reduce(owner)
        while self._in_flight:
            self._collect()
        if not self._is_last:
            return
        for parameter in self._partition.owned_by(self._partition.group.rank):
            if parameter.name in self._reduced:
                parameter.grad = self._reduced.pop(parameter.name)

    @paddle.no_grad()
    def _reduce(self, owner: int) -> None:
        group, ready = self._partition.group, self._pending[owner]
        self._pending[owner], self._pending_numel[owner] = [], 0
        for bucket in iter_buckets(ready):
            grads: list[Any] = [parameter.grad for parameter in bucket]
            flat = paddle.concat([grad.flatten() for grad in grads])
            for parameter in bucket:
                parameter.clear_gradient(False)  # releases what `grads` refer to
            wait = _start_reduce(flat / group.degree, owner, group)
            self._in_flight.append((owner, bucket, wait))
            while len(self._in_flight) > max_in_flight(flat):
                self._collect()

    @paddle.no_grad()
    def _collect(self) -> None:
        """Wait for the oldest bucket that is on its way, and keep the gradients that this rank owns."""
        owner, bucket, wait = self._in_flight.popleft()
        mean = wait()
        if owner != self._partition.group.rank:
            return
        for parameter, grad in zip(bucket, unflatten_like(mean, bucket), strict=True):
            sum_so_far = self._reduced.get(parameter.name)
            self._reduced[parameter.name] = grad if sum_so_far is None else sum_so_far + grad


def _start_reduce(x: Tensor, owner: int, group: ProcessGroup) -> Callable[[], Tensor]:
    """Begin to sum `x` over the group, in place; what waits for the sum, which only rank `owner` gets.

    Half precision is reduced in float32 on CPU, as in `parallel.collectives.all_reduce`.
    """
    wide = x.dtype in _HALF_DTYPES and not x.place.is_gpu_place()
    buffer = x.astype("float32") if wide else x
    task = dist.reduce(buffer, dst=group.handle.ranks[owner], group=group.handle, sync_op=False)

    def wait() -> Tensor:
        task.wait()
        return buffer.astype(x.dtype)

    return wait
