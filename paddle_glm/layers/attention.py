"""Grouped-query attention (arXiv:2305.13245) and its masks."""

import math
from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels import operators, training
from paddle_glm.kernels.usage import uses_operators
from paddle_glm.kv_cache import KVCache, LayerCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.tensors import InPlaceCache
from paddle_glm.layers.decode import decode_attention, decodes
from paddle_glm.layers.rotary import apply_rotary_interleaved
from paddle_glm.parallel.group import ProcessGroup
from paddle_glm.parallel.rng import sharded_rng
from paddle_glm.precision import autocast_disabled

# Added to a masked score before the float32 softmax, where exp underflows to exactly 0.
MASK_VALUE = -1e9


def dim_size(tensor: Tensor, axis: int) -> int | Tensor:
    """The size along `axis`: an int, or in a static graph a tensor evaluated when the graph runs."""
    return tensor.shape[axis] if paddle.in_dynamic_mode() else paddle.shape(tensor)[axis]


def causal_mask(attention_mask: Tensor, tokens: int | Tensor) -> Tensor:
    """The additive float32 mask [batch, 1, tokens, total] of the last `tokens` of `total` positions.

    attention_mask: [batch, total], as for `boolean_mask`. A query on padding attends to everything, as in
    the original (`get_masks` of ChatGLM2's modeling_chatglm.py); its output is never used.
    """
    if paddle.in_dynamic_mode() and tokens == 1:
        last = attention_mask[:, -1:]  # the one query is of its sample's last token
        allowed = paddle.logical_or(attention_mask == last, last == 0)
        return additive_mask(allowed).unsqueeze([1, 2])
    visible = boolean_mask(attention_mask, tokens)
    padding = (_query_columns(attention_mask, tokens) == 0).unsqueeze([1, 3])
    return additive_mask(paddle.logical_or(visible, padding))


def bidirectional_context_mask(attention_mask: Tensor, context: Tensor) -> Tensor:
    """Like `causal_mask`, but all tokens attend to the context, also to later tokens of it.

    context: bool [batch, tokens], True for the context among the last tokens; attention_mask:
    [batch, past + tokens]. For a query on padding all keys are masked and get equal weights, as in the
    original (ChatGLM-6B).
    """
    return additive_mask(boolean_mask(attention_mask, dim_size(context, 1), context))


def boolean_mask(attention_mask: Tensor, tokens: int | Tensor, context: Tensor | None = None) -> Tensor:
    """bool [batch, 1, tokens, total], True where one of the last `tokens` positions may attend.

    attention_mask: [batch, total], 0 for padding, 1 for tokens; in a row of several packed samples 1, 2, ...
    for the tokens of each. A token attends to its own sample up to itself, and to the sample's context.
    context: bool [batch, tokens], or None.
    """
    total = dim_size(attention_mask, 1)
    keys = paddle.arange(total, dtype="int64")
    queries = paddle.arange(tokens, dtype="int64") + (total - tokens)
    order = (keys.unsqueeze(0) <= queries.unsqueeze(1)).unsqueeze(0)  # (1, tokens, total)
    if context is not None:
        past = paddle.ones_like(attention_mask[:, : total - tokens]).astype("bool")
        order = paddle.logical_or(order, paddle.concat([past, context], axis=1).unsqueeze(1))
    same_sample = _query_columns(attention_mask, tokens).unsqueeze(2) == attention_mask.unsqueeze(1)
    not_padding = (attention_mask > 0).unsqueeze(1)
    return paddle.logical_and(paddle.logical_and(order, same_sample), not_padding).unsqueeze(1)


def _query_columns(attention_mask: Tensor, tokens: int | Tensor) -> Tensor:
    """The last `tokens` columns."""
    return attention_mask[:, dim_size(attention_mask, 1) - tokens :]


def additive_mask(allowed: Tensor) -> Tensor:
    """bool mask, True where a query may attend -> float32, 0 there and -1e9 elsewhere."""
    return (1.0 - allowed.astype("float32")) * MASK_VALUE


def cache_mask(mask: Tensor, cache: KVCache) -> Tensor:
    """The additive mask over all columns that the cache's next update returns.

    mask: float32 [batch, 1, tokens, own columns of the cache + tokens]. A prefix is visible to all, unused
    columns to none.
    """
    prefix, unused = cache.prefix_length, cache.spare(mask.shape[2])
    if not prefix and not unused:
        return mask
    shape = mask.shape[:3]
    parts = [paddle.zeros([*shape, prefix]), mask, paddle.full([*shape, unused], MASK_VALUE)]
    return paddle.concat(parts, axis=3)


def split_qkv_per_head(fused: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split a projection laid out head by head, [batch, tokens, heads * 3 * head_dim], into query, key and
    value, each [batch, heads, tokens, head_dim].
    """
    heads = fused.shape[-1] // (3 * head_dim)
    # (batch, tokens, heads * 3 * head_dim) -> (batch, heads, tokens, 3 * head_dim)
    query, key, value = fused.reshape([0, 0, heads, 3 * head_dim]).transpose([0, 2, 1, 3]).chunk(3, axis=-1)
    return query, key, value


def split_qkv_blocks(fused: Tensor, sizes: Sequence[int], head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split a projection [batch, tokens, sum(sizes)] into query, key and value of `sizes` channels, each
    [batch, its heads, tokens, head_dim].
    """
    # (batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)
    query, key, value = (
        part.reshape([0, 0, size // head_dim, head_dim]).transpose([0, 2, 1, 3])
        for part, size in zip(fused.split(list(sizes), axis=-1), sizes, strict=True)
    )
    return query, key, value


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    cache: LayerCache | None,
    group: ProcessGroup,
    dropout: float = 0.0,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """`grouped_query_attention` to the keys and values of the cache, to which it appends the given ones.

    key, value: [batch, key_value_heads, tokens, head_dim].
    """
    if isinstance(cache, InPlaceCache) and uses_operators():
        batch, heads, tokens, head_dim = key.shape
        keys, values, past = cache.reserve(batch, heads, tokens, head_dim)
        past = operators.append_cache(key, value, keys, values, past)
        return operators.cached_attention(query, keys, values, mask, past, head_dim**-0.5)
    if isinstance(cache, DecodeLayer) and decodes(query, key, cache, qk_layer_scaling):
        return decode_attention(query, key, value, mask, cache)
    if cache is not None:
        key, value = cache.update(key, value)
    return grouped_query_attention(query, key, value, mask, group, dropout, qk_layer_scaling)


def attend_rotated(
    fused: Tensor,
    sizes: Sequence[int],
    head_dim: int,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor,
    cache: LayerCache | None,
    group: ProcessGroup,
    dropout: float = 0.0,
) -> Tensor:
    """`split_qkv_blocks`, `apply_rotary_interleaved` to queries and keys, and `attend`."""
    if isinstance(cache, InPlaceCache) and uses_operators():
        heads, kv_heads = sizes[0] // head_dim, sizes[1] // head_dim
        keys, values, past = cache.reserve(fused.shape[0], kv_heads, fused.shape[1], head_dim)
        query = operators.append_rotary(fused, *rotary, keys, values, past, heads, kv_heads)
        return operators.cached_attention(query, keys, values, mask, past, head_dim**-0.5)
    if training.usable(fused):
        heads, kv_heads = sizes[0] // head_dim, sizes[1] // head_dim
        query, key, value = training.split_rotary(fused, *rotary, heads, kv_heads, head_dim**-0.5)
        if cache is not None:
            key, value = cache.update(key, value)
        return _attend_scaled(query, key, value, mask, group, dropout)
    query, key, value = split_qkv_blocks(fused, sizes, head_dim)
    query, key = apply_rotary_interleaved(query, *rotary), apply_rotary_interleaved(key, *rotary)
    return attend(query, key, value, mask, cache, group, dropout)


def grouped_query_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    group: ProcessGroup,
    dropout: float = 0.0,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v with the softmax in float32.

    query: [batch, heads, tokens, head_dim]; key, value: [batch, key_value_heads, total, head_dim], each
    shared by consecutive query heads; mask: additive float32, [batch or 1, 1, tokens, total];
    qk_layer_scaling: scores are divided by it until they are float32, since they may overflow float16.
    Returns [batch, tokens, heads * head_dim].
    """
    scaled = query * (1.0 / (math.sqrt(query.shape[3]) * qk_layer_scaling))
    return _attend_scaled(scaled, key, value, mask, group, dropout, qk_layer_scaling)


def _attend_scaled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    group: ProcessGroup,
    dropout: float,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """`grouped_query_attention` for queries that are divided by sqrt(head_dim) * qk_layer_scaling."""
    heads, groups, head_dim = query.shape[1], key.shape[1], query.shape[3]
    # The query heads of a group are stacked along the tokens, so that keys need not be repeated.
    stacked = query.reshape([0, groups, -1, head_dim])
    scores = paddle.matmul(stacked, key, transpose_y=True)
    weights = _attention_weights(scores, mask, heads // groups, qk_layer_scaling)
    if dropout:
        with sharded_rng(group):
            weights = F.dropout(weights, dropout)
    weights = weights.astype(value.dtype)
    attn_output: Tensor = paddle.matmul(weights, value).reshape([0, heads, -1, head_dim])
    return attn_output.transpose([0, 2, 1, 3]).reshape([0, 0, heads * head_dim])


def _attention_weights(scores: Tensor, mask: Tensor, heads_per_group: int, qk_layer_scaling: float) -> Tensor:
    """softmax(scores * qk_layer_scaling + mask), float32.

    scores: [batch, groups, heads_per_group * tokens, total], the shape of the result.
    """
    groups, tokens, total = scores.shape[1], dim_size(mask, 2), dim_size(mask, 3)
    if qk_layer_scaling == 1.0 and training.usable(scores):
        return training.masked_softmax(scores, mask)
    per_head = scores.reshape([0, groups, heads_per_group, tokens, total])
    with autocast_disabled():
        weights = F.softmax(per_head.astype("float32") * qk_layer_scaling + mask.unsqueeze(1), axis=-1)
    return weights.reshape([0, groups, -1, total])
