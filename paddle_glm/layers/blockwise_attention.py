"""Attention in blocks of queries: memory linear in the length, forward and backward.

The queries of a block and of one key/value head are computed with all the columns that they see, and nothing
of it is kept: the backward pass computes it again (arXiv:2112.05682; as rows are whole, their softmax is
never rescaled). Columns that no query of a block sees, later ones or those of other packed samples, are not
read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels.usage import recomputed_block
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.attention_weights import attention_weights, attention_weights_grad
from paddle_glm.paddle_types import Function
from paddle_glm.precision import autocast_disabled

# Scores of a block: few, for the temporaries' sake, but enough for matmuls at full speed.
BLOCK_SCORES = 2**21
MIN_QUERIES = 16
# Blocks of a row: of the scores above the diagonal, one in so many is computed.
MIN_BLOCKS = 8


def blockwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    dropout: float = 0.0,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """softmax(q k^T * qk_layer_scaling + mask) v, block by block, with the softmax in float32.

    query: [batch, heads, tokens, head_dim]; key, value: [batch, key_value_heads, columns,
    head_dim], each shared by consecutive query heads. Both passes draw the same random numbers for dropout.
    Returns [batch, tokens, heads * head_dim].
    """
    return _BlockwiseAttention.apply(query, key, value, mask, dropout, qk_layer_scaling)


class _Block(NamedTuple):
    """The queries from `start` to `stop` of a row, which see columns from `first` to `end`."""

    row: int
    start: int
    stop: int
    first: int
    end: int

    def queries(self, x: Tensor, group: int, groups: int) -> Tensor:
        """Of a key/value head, from x [batch, heads, tokens, head_dim]: [its heads * queries, head_dim]."""
        heads = x.shape[1] // groups
        mine = x[self.row, group * heads : (group + 1) * heads, self.start : self.stop]
        return mine.reshape([-1, x.shape[3]])

    def columns(self, x: Tensor, group: int) -> Tensor:
        """Of x [batch, key_value_heads, columns, head_dim]: [columns, head_dim]."""
        return x[self.row, group, self.first : self.end]

    def all_columns(self, x: Tensor, total: int) -> Tensor:
        """x [columns, head_dim] with zeros for the other columns: float32 [total, head_dim].

        Adding to a view instead would need strided views, which training on a CPU turns off.
        """
        size = x.shape[1]
        zeros = (paddle.zeros([count, size], "float32") for count in (self.first, total - self.end))
        before, behind = zeros
        return paddle.concat([before, x.astype("float32"), behind])


def _blocks(query: Tensor, key: Tensor, mask: AttentionMask) -> list[list[_Block]]:
    """The blocks of each row, in the order of their queries."""
    tokens, heads = query.shape[2], query.shape[1] // key.shape[1]
    size = min(BLOCK_SCORES // (heads * key.shape[2]), -(-tokens // MIN_BLOCKS))
    size = max(size, MIN_QUERIES)
    edges = [(start, min(start + size, tokens)) for start in range(0, tokens, size)]
    return [
        [_Block(row, start, stop, *mask.visible_columns(row, start, stop)) for start, stop in edges]
        for row in range(query.shape[0])
    ]


class _BlockwiseAttention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: AttentionMask,
        dropout: float,
        qk_layer_scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.needed = [not one.stop_gradient for one in (query, key, value)]
        ctx.mask, ctx.dropout, ctx.qk_layer_scaling = mask, dropout, qk_layer_scaling
        ctx.random_state = paddle.get_rng_state() if dropout else None
        groups, heads, head_dim = key.shape[1], query.shape[1] // key.shape[1], query.shape[3]
        rows = []
        with recomputed_block(), autocast_disabled():
            for blocks in _blocks(query, key, mask):
                parts = []
                for block in blocks:
                    bias, per_group = _bias(mask, block), []
                    for group in range(groups):
                        q, k = block.queries(query, group, groups), block.columns(key, group)
                        weights = _weights(q, k, bias, heads, qk_layer_scaling)
                        if dropout:
                            weights = F.dropout(weights, dropout)
                        output = paddle.matmul(weights.astype(value.dtype), block.columns(value, group))
                        per_group.append(output.reshape([heads, -1, head_dim]))
                    parts.append(paddle.concat(per_group))
                rows.append(paddle.concat(parts, axis=1))
        return paddle.stack(rows).transpose([0, 2, 1, 3]).flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value = ctx.saved_tensor()
        ctx.container = None  # otherwise it stays in memory until the whole graph is freed
        with _random_state(ctx.random_state), paddle.no_grad(), recomputed_block(), autocast_disabled():
            grads = _gradients(query, key, value, grad, ctx.mask, ctx.dropout, ctx.qk_layer_scaling)
        return tuple(one if needed else None for one, needed in zip(grads, ctx.needed, strict=True))


@contextmanager
def _random_state(state: Any) -> Iterator[None]:
    """Draws random numbers from the given state of the generator on, and then goes on as before."""
    if state is None:
        yield
        return
    before = paddle.get_rng_state()
    paddle.set_rng_state(state)
    try:
        yield
    finally:
        paddle.set_rng_state(before)


def _gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    mask: AttentionMask,
    dropout: float,
    qk_layer_scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Those of query, key and value from the output's, [batch, tokens, heads * head_dim]."""
    batch, heads, tokens, head_dim = query.shape
    groups, heads = key.shape[1], heads // key.shape[1]
    grad = grad.reshape([batch, tokens, -1, head_dim]).transpose([0, 2, 1, 3])
    rows: list[tuple[Tensor, ...]] = []
    for blocks in _blocks(query, key, mask):
        grad_keys, grad_values = (
            [paddle.zeros(key.shape[2:], "float32") for _ in range(groups)] for _ in "kv"
        )
        parts = []
        for block in blocks:
            bias, per_group = _bias(mask, block), []
            for group in range(groups):
                q, k = block.queries(query, group, groups), block.columns(key, group)
                upstream = block.queries(grad, group, groups)
                weights = _weights(q, k, bias, heads, qk_layer_scaling)
                kept = F.dropout(paddle.ones_like(weights), dropout) if dropout else None
                dropped = weights if kept is None else weights * kept
                part = paddle.matmul(dropped.astype(value.dtype), upstream, transpose_x=True)
                grad_values[group].add_(block.all_columns(part, key.shape[2]))
                del dropped
                grad_weights = paddle.matmul(upstream, block.columns(value, group), transpose_y=True)
                grad_weights = grad_weights.astype("float32")
                if kept is not None:
                    grad_weights = grad_weights * kept
                scores = attention_weights_grad(weights, grad_weights, qk_layer_scaling).astype(query.dtype)
                part = paddle.matmul(scores, q, transpose_x=True)
                grad_keys[group].add_(block.all_columns(part, key.shape[2]))
                per_group.append(paddle.matmul(scores, k).reshape([heads, -1, head_dim]))
            parts.append(paddle.concat(per_group))
        rows.append((paddle.concat(parts, axis=1), paddle.stack(grad_keys), paddle.stack(grad_values)))
    grads = (paddle.stack(list(one)) for one in zip(*rows, strict=True))
    of_query, of_key, of_value = (
        grad.astype(one.dtype) for grad, one in zip(grads, (query, key, value), strict=True)
    )
    return of_query, of_key, of_value


def _bias(mask: AttentionMask, block: _Block) -> Tensor:
    """The additive mask of a block, [1, 1, queries, columns]."""
    return mask.block(block.row, (block.start, block.stop), (block.first, block.end))


def _weights(query: Tensor, key: Tensor, bias: Tensor, heads: int, qk_layer_scaling: float) -> Tensor:
    """Of [heads * queries, head_dim] and [columns, head_dim]: float32 [heads * queries, columns]."""
    scores = paddle.matmul(query, key, transpose_y=True).unsqueeze([0, 1])
    return attention_weights(scores, bias, heads, qk_layer_scaling)[0, 0]
