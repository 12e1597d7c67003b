"""Cross entropy of logits whose last axis is sharded over a group (Megatron-LM, arXiv:1909.08053)."""

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.kernels import training
from paddle_glm.paddle_types import Function
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.group import ProcessGroup


def vocab_parallel_cross_entropy(logits: Tensor, labels: Tensor, group: ProcessGroup) -> Tensor:
    """Loss per token [...], float32; 0 where the label is -100.

    logits: [..., vocab / degree], the shard of this rank; labels: [...], int64, ids of the full vocabulary.
    """
    native = training.usable(logits)
    if native or group.degree > 1:
        return _CrossEntropy.apply(logits, labels, group, native)
    loss = paddle.nn.functional.cross_entropy(
        logits.astype("float32"), labels, reduction="none", ignore_index=IGNORE_INDEX
    )
    return loss.reshape(labels.shape)


class _CrossEntropy(Function):
    """Saves only the logits. native: by the native operators."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, group: ProcessGroup, native: bool) -> Tensor:
        ctx.first, ctx.native = group.rank * logits.shape[-1], native
        statistics = softmax_statistics(logits, labels, ctx.first, native)
        logsumexp, target = combine_statistics(*statistics, group)
        valid_mask = (labels != IGNORE_INDEX).astype("float32")
        ctx.save_for_backward(logits, labels, logsumexp, valid_mask)
        return (logsumexp - target) * valid_mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        logits, labels, logsumexp, valid_mask = ctx.saved_tensor()
        return softmax_minus_label(logits, labels, logsumexp, grad * valid_mask, ctx.first, ctx.native)


def softmax_statistics(
    logits: Tensor, labels: Tensor, first: int, native: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `training.softmax_statistics`, of logits of any float dtype."""
    if native:
        return training.softmax_statistics(logits, labels, first)
    logits = logits.astype("float32")
    maximum = logits.max(axis=-1)
    local, in_shard = _local_labels(logits, labels, first)
    target = paddle.take_along_axis(logits, local, axis=-1).squeeze(-1) * in_shard
    return maximum, paddle.exp(logits - maximum.unsqueeze(-1)).sum(axis=-1), target


def combine_statistics(
    maximum: Tensor, total: Tensor, target: Tensor, group: ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Logarithm of the sum of exponentials over the whole vocabulary, the label's logit: float32 [...]."""
    if group.degree > 1:
        highest = all_reduce(maximum, group, dist.ReduceOp.MAX)
        total, target = all_reduce(paddle.stack([total * paddle.exp(maximum - highest), target]), group)
        maximum = highest
    return paddle.log(total) + maximum, target


def softmax_minus_label(
    logits: Tensor, labels: Tensor, logsumexp: Tensor, scale: Tensor, first: int, native: bool
) -> Tensor:
    """As `training.softmax_minus_label`, of logits of any float dtype, which is the result's."""
    if native:
        return training.softmax_minus_label(logits, labels, logsumexp, scale, first)
    probability = paddle.exp(logits.astype("float32") - logsumexp.unsqueeze(-1))
    local, in_shard = _local_labels(logits, labels, first)
    minus_label = paddle.put_along_axis(probability, local, -in_shard.unsqueeze(-1), axis=-1, reduce="add")
    return (minus_label * scale.unsqueeze(-1)).astype(logits.dtype)


def _local_labels(logits: Tensor, labels: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Labels as indices of this shard, int64 [..., 1], 0 where they are outside; 1.0 where they are not."""
    local = labels - first
    in_shard = paddle.logical_and(local >= 0, local < logits.shape[-1])
    return paddle.where(in_shard, local, paddle.zeros_like(local)).unsqueeze(-1), in_shard.astype("float32")
