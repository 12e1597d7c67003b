"""Grouped-query attention (arXiv:2305.13245) and its masks."""

import math

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.parallel.group import TPGroup
from paddle_glm.parallel.random import sharded_rng
from paddle_glm.precision import full_precision

# Added to a masked score before the float32 softmax, where exp underflows to exactly 0.
MASKED = -1e9


def length_of(tensor: Tensor, axis: int) -> int | Tensor:
    """The size along `axis`: an int, or in a static graph what it will be when the graph runs."""
    return tensor.shape[axis] if paddle.in_dynamic_mode() else paddle.shape(tensor)[axis]


def causal_mask(attention_mask: Tensor, tokens: int | Tensor) -> Tensor:
    """The additive float32 mask [batch, 1, tokens, total] of the last `tokens` of `total` positions.

    attention_mask: [batch, total], 1 for real tokens. A query on padding attends to everything, as in
    the original (`get_masks` of modeling_chatglm.py); its output is never used.
    """
    total = length_of(attention_mask, 1)
    keys = paddle.arange(total, dtype="int64")
    queries = paddle.arange(tokens, dtype="int64") + (total - tokens)
    causal = keys.unsqueeze(0) <= queries.unsqueeze(1)  # (tokens, total)
    real = attention_mask.astype("bool")
    allowed = paddle.logical_and(causal.unsqueeze(0), real.unsqueeze(1))  # (batch, tokens, total)
    padding = paddle.logical_not(paddle.index_select(real, queries, axis=1)).unsqueeze(2)
    return additive_mask(paddle.logical_or(allowed, padding).unsqueeze(1))


def additive_mask(allowed: Tensor) -> Tensor:
    """bool mask, True where a query may attend -> float32, 0 there and -1e9 elsewhere."""
    return (1.0 - allowed.astype("float32")) * MASKED


def grouped_query_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, group: TPGroup, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v with the softmax in float32.

    query: [batch, heads, tokens, head_dim]; key, value: [batch, key_value_heads, total, head_dim], each
    shared by neighbouring query heads; mask: additive float32, [batch or 1, 1, tokens, total].
    Returns [batch, tokens, heads * head_dim].
    """
    heads, groups, head_dim = query.shape[1], key.shape[1], query.shape[3]
    # The heads of a group are stacked as more queries, so that keys need not be repeated.
    stacked = (query * (1.0 / math.sqrt(head_dim))).reshape([0, groups, -1, head_dim])
    scores = paddle.matmul(stacked, key, transpose_y=True)
    # (batch, groups, heads / groups * tokens, total) -> (batch, groups, heads / groups, tokens, total)
    tokens, total = length_of(mask, 2), length_of(mask, 3)
    scores = scores.reshape([0, groups, heads // groups, tokens, total])
    with full_precision():
        weights = F.softmax(scores.astype("float32") + mask.unsqueeze(1), axis=-1)
    if dropout:
        with sharded_rng(group):
            weights = F.dropout(weights, dropout)
    weights = weights.astype(value.dtype).reshape([0, groups, -1, total])
    mixed = paddle.matmul(weights, value).reshape([0, heads, -1, head_dim])
    return mixed.transpose([0, 2, 1, 3]).reshape([0, 0, heads * head_dim])
