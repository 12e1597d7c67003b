"""The language model's head: logits, and their cross entropy without all logits in memory."""

from typing import Any

import paddle
from paddle import Tensor

from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.kernels import training
from paddle_glm.paddle_types import Function
from paddle_glm.parallel.collectives import copy_to_group, gather_from_group
from paddle_glm.parallel.cross_entropy import combine_statistics, softmax_minus_label, softmax_statistics
from paddle_glm.parallel.group import ProcessGroup
from paddle_glm.parallel.layers import ParallelWeight, VocabParallelEmbedding, WeightFormat
from paddle_glm.parallel.sequence import SlicedLayer, gather_tokens
from paddle_glm.precision import autocast_disabled
from paddle_glm.sharding import ParameterSpec, Sharding

# Bytes of a chunk's logits in float32.
CHUNK_BYTES = 128 << 20
# Bytes of all logits from which on they are chunked on a CPU, where computing them again takes longer than
# writing them: 1.3 times the time of head and loss.
CHUNKED_FROM_BYTES_CPU = 512 << 20


def chunk_rows(tokens: int, local_vocab_size: int, on_cpu: bool) -> int:
    """Of how many tokens a chunk of logits is; all of them where chunks do not pay."""
    nbytes = tokens * local_vocab_size * 4
    if on_cpu and nbytes < CHUNKED_FROM_BYTES_CPU:
        return tokens
    return -(-tokens // max(-(-nbytes // CHUNK_BYTES), 1))


class LMHead(SlicedLayer):
    """Hidden states [..., hidden] -> logits: `forward` computes this rank's shard, `gather` all of them.

    A subclass has `local_matmul`, `local_matmul_transposed` and `trained_weight` of `ParallelWeight`.
    """

    group: ProcessGroup

    @property
    def trained_weight(self) -> Tensor | None:
        raise NotImplementedError

    def local_matmul(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def local_matmul_transposed(self, grad: Tensor) -> Tensor:
        raise NotImplementedError

    def set_vocab_sharding(self, sharding: Sharding) -> None:
        """Set the sizes of the vocabulary, of this rank's shard and of the padding in it."""
        self.vocab_size, self.local_vocab_size = sharding.size, sharding.local_size(self.group.degree)
        self.first_id = self.group.rank * self.local_vocab_size
        # Padding is at the end of the vocabulary: on the last ranks.
        past_end = self.first_id + self.local_vocab_size - self.vocab_size
        self.local_padding = min(max(past_end, 0), self.local_vocab_size)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [..., hidden], or the rank's slice of the tokens -> its shard of the logits, [..., vocab_local].

        labels: int64 [...]; with them `vocab_parallel_cross_entropy` of the logits, float32 [...], of which
        only a chunk of tokens exists at a time. Backward computes them again (as arXiv:2411.09009).
        """
        slices = self.token_group
        x = gather_tokens(x, slices) if slices.degree > 1 else copy_to_group(x, self.group)
        if labels is None:
            return self.local_logits(x)
        rows, native = x.reshape([-1, x.shape[-1]]), training.usable(x)
        loss = _HeadCrossEntropy.apply(rows, self.trained_weight, labels.flatten(), self, native)
        return loss.reshape(labels.shape)

    def chunk_rows(self, tokens: int) -> int:
        """Tokens per chunk of the cross entropy; all of them where chunks do not pay."""
        return chunk_rows(tokens, self.local_vocab_size, paddle.get_device() == "cpu")

    def local_logits(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> [..., vocab_local]; x gets this rank's part of its gradient."""
        logits = self.local_matmul(x)
        if not self.local_padding:
            return logits
        # Padding must get no probability; -6e4 is within the range of float16.
        lowest = paddle.full([*logits.shape[:-1], self.local_padding], -6e4, dtype=logits.dtype)
        return paddle.concat([logits[..., : logits.shape[-1] - self.local_padding], lowest], axis=-1)

    def gather(self, logits: Tensor) -> Tensor:
        """[..., vocab_local] -> [..., vocab_size]."""
        whole = gather_from_group(logits, self.group)
        return whole if whole.shape[-1] == self.vocab_size else whole[..., : self.vocab_size]


class ParallelLMHead(ParallelWeight, LMHead):
    """A head with its own weight; the vocabulary is sharded over the group."""

    def __init__(
        self, hidden_size: int, sharding: Sharding, group: ProcessGroup, weight_format: WeightFormat
    ) -> None:
        super().__init__(ParameterSpec((sharding.size, hidden_size), sharding), group, weight_format)
        self.set_vocab_sharding(sharding)


class TiedLMHead(LMHead):
    """A head without parameters that uses the embedding's weight."""

    def __init__(self, embedding: VocabParallelEmbedding) -> None:
        super().__init__()
        self.group = embedding.group
        self._embedding = (embedding,)  # in a tuple, so that it is not registered as a sublayer again
        self.set_vocab_sharding(embedding.spec.sharding)

    @property
    def trained_weight(self) -> Tensor | None:
        return self._embedding[0].trained_weight

    def local_matmul(self, x: Tensor) -> Tensor:
        return self._embedding[0].local_matmul(x)

    def local_matmul_transposed(self, grad: Tensor) -> Tensor:
        return self._embedding[0].local_matmul_transposed(grad)


class _HeadCrossEntropy(Function):
    """Loss per token [tokens] of hidden [tokens, size], chunk by chunk. weight: the head's, if trained.

    Saves hidden and a few numbers per token.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor | None, labels: Tensor, head: LMHead, native: bool
    ) -> Tensor:
        ctx.head, ctx.native = head, native
        chunks = []
        for rows, targets in zip(*_chunks(head, hidden, labels), strict=True):
            logits = head.local_logits(rows)  # in mixed precision, where that is on
            ctx.dtype = logits.dtype
            with autocast_disabled():
                chunks.append(softmax_statistics(logits, targets, head.first_id, native))
            del logits  # before the next chunk's
        with autocast_disabled():
            maximum, total, target = (paddle.concat(parts) for parts in zip(*chunks, strict=True))
            logsumexp, target = combine_statistics(maximum, total, target, head.group)
            valid_mask = (labels != IGNORE_INDEX).astype("float32")
            ctx.save_for_backward(hidden, labels, logsumexp, valid_mask)
            return (logsumexp - target) * valid_mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        head, (hidden, labels, logsumexp, valid_mask) = ctx.head, ctx.saved_tensor()
        weight, hidden_grads, weight_grad = head.trained_weight, [], None
        if weight is not None:
            weight_grad = paddle.zeros(weight.shape, dtype=ctx.dtype)
        with autocast_disabled():
            chunks = _chunks(head, hidden, labels, logsumexp, grad * valid_mask)
            for rows, targets, lse, scale in zip(*chunks, strict=True):
                rows = rows.astype(ctx.dtype)
                logits = head.local_logits(rows)
                logits_grad = softmax_minus_label(logits, targets, lse, scale, head.first_id, ctx.native)
                hidden_grads.append(head.local_matmul_transposed(logits_grad).astype(hidden.dtype))
                if weight_grad is not None:
                    paddle.addmm_(weight_grad, logits_grad.t(), rows)
                del logits, logits_grad  # before the next chunk's
        gradients = [paddle.concat(hidden_grads)]
        if weight_grad is not None:
            gradients.append(weight_grad.astype(weight.dtype))
        return *gradients, None


def _chunks(head: LMHead, *tensors: Tensor) -> list[list[Tensor]]:
    """Each of the tensors [tokens, ...] in chunks of tokens."""
    tokens = tensors[0].shape[0]
    size = head.chunk_rows(tokens)
    return [[one[start : start + size] for start in range(0, tokens, size)] for one in tensors]
