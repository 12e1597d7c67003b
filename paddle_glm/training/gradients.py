"""Gradients over processes: averaged over data parallelism, measured and clipped over a cut model."""

from collections.abc import Mapping
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddle_glm.families import ParameterSpec
from paddle_glm.parallel import TPGroup
from paddle_glm.parallel.ops import all_reduce
from paddle_glm.sharding import along

# Elements that one reduction carries: enough to hide its latency, little beside the model.
_BUCKET = 32 * 2**20


def average_gradients(parameters: list[Tensor], group: TPGroup) -> None:
    """Replace every gradient by its mean over the data-parallel processes.

    The mean over processes of each one's mean loss is PaddleNLP's convention, so that two processes
    equal one with twice the gradient accumulation.
    """
    if group.degree == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            continue
        bucket.append(parameter.grad)
        size += parameter.grad.size
        if size >= _BUCKET:
            _average(bucket, group)
            bucket, size = [], 0
    if bucket:
        _average(bucket, group)


def _average(grads: list[Tensor], group: TPGroup) -> None:
    with paddle.no_grad():
        # Divided first: a sum of scaled float16 gradients could overflow where their mean does not.
        flat = all_reduce(paddle.concat([grad.flatten() for grad in grads]) / group.degree, group)
        for grad, mean in zip(grads, flat.split([grad.size for grad in grads]), strict=True):
            grad.set_value(mean.reshape(grad.shape).astype(grad.dtype))


class GroupClip(nn.ClipGradByGlobalNorm):
    """Clips by the norm that the whole model's gradient has, whatever the degree that cuts it.

    A slice counts on its rank, what several ranks hold (norms, shared key/value groups) counts once.
    `norm` is the last norm before clipping, a float32 tensor of shape [1].
    """

    def __init__(
        self, clip_norm: float, specs: Mapping[str, ParameterSpec], names: Mapping[str, str], group: TPGroup
    ) -> None:
        """specs: the family's table by hub name; names: Paddle's parameter names -> hub names."""
        super().__init__(clip_norm)
        self.group = group
        self.norm: Tensor | None = None
        self._sharding = {name: specs[hub].sharding for name, hub in names.items()}

    def squared_norm(self, name: str, grad: Tensor) -> Tensor:
        """This rank's share of the squared norm of one gradient, float32."""
        sharding = self._sharding[name]
        grad = grad.astype("float32")
        share = paddle.zeros([])
        for start, stop, copies in sharding.shared_ranges(self.group.rank, self.group.degree):
            piece = grad if stop is None else grad[along(sharding.axis or 0, start, stop)]
            share = share + paddle.sum(paddle.square(piece)) / copies
        return share

    @paddle.no_grad()
    def _dygraph_clip(self, params_grads: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        total = paddle.zeros([1])
        for parameter, grad in params_grads:
            total = total + self.squared_norm(parameter.name, grad)
        if self.group.degree > 1:
            total = all_reduce(total, self.group)
        self.norm = paddle.sqrt(total)
        scale = self.clip_norm / paddle.clip(self.norm, min=self.clip_norm)
        return [(parameter, grad * scale.astype(grad.dtype)) for parameter, grad in params_grads]


class GroupScaler(paddle.amp.GradScaler):
    """Loss scaling for float16 that skips a step on every rank when any rank met an infinity."""

    def __init__(self, init_loss_scaling: float, group: TPGroup) -> None:
        super().__init__(init_loss_scaling=init_loss_scaling)
        self._group = group

    def _unscale(self, optimizer: Any) -> None:
        super()._unscale(optimizer)
        if self._enable and self._group.degree > 1:
            found = all_reduce(self._found_inf.astype("int32"), self._group, dist.ReduceOp.MAX)
            self._found_inf = found.astype("bool")
