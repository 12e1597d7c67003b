"""Gradients of data and tensor parallelism: averaging, the global norm, clipping and loss scaling."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddle_glm.kernels import training
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.collectives import all_reduce, start_all_reduce
from paddle_glm.sharding import ParameterSpec, axis_slice

# Elements per reduction: enough to hide its latency, few compared to the model.
BUCKET_NUMEL = 32 * 2**20


def max_in_flight(flat: Tensor) -> int:
    """Buckets that may be on their way at once, each in memory; none on CPUs, where reducing blocks."""
    return 2 if flat.place.is_gpu_place() else 0


def iter_buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype, in order, up to the first that makes `BUCKET_NUMEL` elements."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= BUCKET_NUMEL or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.size
    if bucket:
        yield bucket


def unflatten_like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Split `flat`, [sum of sizes], into tensors of the shapes of `tensors`."""
    pieces = flat.split([tensor.size for tensor in tensors])
    return [piece.reshape(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


class GradientAverager:
    """Replaces every gradient by its mean over the data-parallel processes, while backward still runs.

    The loss is the mean over processes of their mean losses, as in PaddleNLP: two processes are equal to one
    with twice the gradient accumulation. A bucket of gradients is reduced as soon as the last of them is
    there (arXiv:2006.15704), in the last of the batches that are accumulated.
    """

    def __init__(self, parameters: Iterable[Tensor], group: ProcessGroup) -> None:
        """Registers a backward hook on every parameter; parameters: those trained."""
        self._group = group
        self._active = False
        self._ready: list[Tensor] = []
        self._ready_numel = 0
        # Gradients of a bucket, and what waits for their mean.
        self._in_flight: deque[tuple[list[Any], Callable[[], Tensor]]] = deque()
        if group.degree > 1:
            for parameter in parameters:
                parameter._register_backward_hook(partial(self._on_gradient_ready, parameter))

    def begin_backward(self, is_last: bool) -> None:
        """Say before a backward pass whether its gradients are the last before the optimizer's step."""
        self._active = is_last

    def _on_gradient_ready(self, parameter: Tensor) -> None:
        """Backward hook; called in the same order on every rank."""
        if not self._active:
            return
        self._ready.append(parameter)
        self._ready_numel += parameter.size
        if self._ready_numel >= BUCKET_NUMEL:
            self._reduce()

    @paddle.no_grad()
    def _reduce(self) -> None:
        ready, self._ready, self._ready_numel = self._ready, [], 0
        for bucket in iter_buckets(ready):
            grads: list[Any] = [parameter.grad for parameter in bucket]
            # Divided first: the sum of scaled float16 gradients could overflow where their mean does not.
            # Not in place: what backward has still to read may lie in the same memory.
            flat = paddle.concat([grad.flatten() for grad in grads]) / self._group.degree
            self._in_flight.append((grads, start_all_reduce(flat, self._group)))
            while len(self._in_flight) > max_in_flight(flat):
                self._collect()

    def finish_backward(self) -> None:
        """Reduce what is left, and wait for all means: to be called after every backward pass."""
        self._reduce()
        while self._in_flight:
            self._collect()

    @paddle.no_grad()
    def _collect(self) -> None:
        """Wait for the oldest bucket that is on its way, and set its gradients."""
        grads, wait = self._in_flight.popleft()
        for grad, mean in zip(grads, unflatten_like(wait(), grads), strict=True):
            grad.copy_(mean, False)  # without waiting for the device


class HybridParallelClipGrad(nn.ClipGradByGlobalNorm):
    """Clips by the global norm over all tensor-parallel ranks and optimizer-state partitions.

    What several ranks replicate (norms, shared key/value groups) counts once. `norm` is the last norm before
    clipping, float32 [1]. With `leaves_scaling` gradients stay as they are, and the optimizer multiplies them
    by `scale`, float32 [1]. Nothing here waits for a GPU.
    """

    def __init__(
        self,
        clip_norm: float,
        specs: Mapping[str, ParameterSpec],
        names: Mapping[str, str],
        group: ProcessGroup,
        sharding_group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """specs: {hub name: spec}. names: {Paddle's parameter name: hub name}. group: tensor-parallel ranks.
        sharding_group: ranks over which a sharded optimizer partitions the gradients.
        """
        super().__init__(clip_norm)
        self.group, self.sharding_group = group, sharding_group
        self.norm: Tensor | None = None
        self.leaves_scaling = False
        self.scale: Tensor | None = None
        self._sharding = {name: specs[hub].sharding for name, hub in names.items()}

    def squared_norm(self, name: str, grad: Tensor) -> Tensor:
        """This rank's part of the squared norm of one gradient, a float32 scalar; replicas count in parts."""
        sharding = self._sharding[name]
        ranges = sharding.replica_ranges(self.group.rank, self.group.degree)
        replicas = {copies for _, _, copies in ranges}
        if len(replicas) == 1 and training.in_place(grad):
            return paddle.full([], training.squared_norm(grad) / replicas.pop())
        grad = grad.astype("float32")
        partial_sum = paddle.zeros([])
        for start, stop, copies in ranges:
            piece = grad if stop is None else grad[axis_slice(sharding.axis or 0, start, stop)]
            partial_sum = partial_sum + paddle.sum(paddle.square(piece)) / copies
        return partial_sum

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        # Summed parameter by parameter: the result has the same bits whichever rank owns a gradient.
        partial_sums = dict.fromkeys(self._sharding, paddle.zeros([]))
        for parameter, grad in params_grads:
            partial_sums[parameter.name] = self.squared_norm(parameter.name, grad)
        squared = paddle.stack(list(partial_sums.values()))
        for group in (self.sharding_group, self.group):
            if group.degree > 1:
                squared = all_reduce(squared, group)
        self.norm = paddle.sqrt(squared.sum().reshape([1]))
        scale = self.clip_norm / paddle.clip(self.norm, min=self.clip_norm)
        if self.leaves_scaling:
            self.scale = scale
            return params_grads
        for _, grad in params_grads:
            grad.multiply_(scale.astype(grad.dtype))  # in place: nothing reads the unclipped one
        return params_grads


class HybridParallelGradScaler(paddle.amp.GradScaler):
    """Float16 loss scaling that skips a step on every rank when any rank has an infinite gradient."""

    def __init__(self, init_loss_scaling: float, *groups: ProcessGroup) -> None:
        """groups: ranks that hold other gradients than this one."""
        super().__init__(init_loss_scaling=init_loss_scaling)
        self._groups = [group for group in groups if group.degree > 1]

    def _unscale(self, optimizer: Any) -> None:
        paddle.amp.GradScaler._unscale(self, optimizer)
        if not self._enable:
            return
        for group in self._groups:
            found = all_reduce(self._found_inf.astype("int32"), group, dist.ReduceOp.MAX)
            self._found_inf = found.astype("bool")
