"""Grouped-query attention (arXiv:2305.13245)."""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels import operators, training
from paddle_glm.kernels.operators import CachePages
from paddle_glm.kernels.usage import uses_operators
from paddle_glm.kv_cache import LayerCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.pages import PagedLayer, PageStep
from paddle_glm.kv_cache.tensors import InPlaceCache
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.attention_weights import attention_weights
from paddle_glm.layers.blockwise_attention import blockwise_attention
from paddle_glm.layers.decode import decode_attention, decode_pages, decodes, decodes_pages
from paddle_glm.layers.fused_attention import attends_fused, fused_attention
from paddle_glm.layers.remember import remember_last
from paddle_glm.layers.rotary import apply_rotary_interleaved
from paddle_glm.parallel.group import ProcessGroup
from paddle_glm.parallel.rng import sharded_rng
from paddle_glm.precision import autocast_operands

# Tokens from which on attention goes by blocks of queries: below, holding all scores is faster.
BLOCKWISE_TOKENS = 512


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
    mask: AttentionMask,
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
        return operators.cached_attention(query, keys, values, mask.dense, past, head_dim**-0.5)
    if isinstance(cache, PagedLayer) and uses_operators():
        pages = CachePages(*cache.pages, cache.step.table, cache.step.past)
        operators.paged_append_cache(key, value, pages)
        return operators.paged_cached_attention(query, pages, key.shape[3] ** -0.5)
    if isinstance(cache, DecodeLayer) and decodes(query, key, cache, qk_layer_scaling):
        return decode_attention(query, key, value, mask.dense, cache)
    if isinstance(cache, PagedLayer):
        if decodes_pages(query, key, cache, qk_layer_scaling):
            return decode_pages(query, key, value, cache)
        return paged_attention(query, key, value, cache, group, qk_layer_scaling)
    if cache is not None:
        key, value = cache.update(key, value)
    return grouped_query_attention(query, key, value, mask, group, dropout, qk_layer_scaling)


def attend_rotated(
    fused: Tensor,
    sizes: Sequence[int],
    head_dim: int,
    rotary: tuple[Tensor, Tensor],
    mask: AttentionMask,
    cache: LayerCache | None,
    group: ProcessGroup,
    dropout: float = 0.0,
) -> Tensor:
    """`split_qkv_blocks`, `apply_rotary_interleaved` to queries and keys, and `attend`."""
    if isinstance(cache, InPlaceCache) and uses_operators():
        heads, kv_heads = sizes[0] // head_dim, sizes[1] // head_dim
        keys, values, past = cache.reserve(fused.shape[0], kv_heads, fused.shape[1], head_dim)
        query = operators.append_rotary(fused, *rotary, keys, values, past, heads, kv_heads)
        return operators.cached_attention(query, keys, values, mask.dense, past, head_dim**-0.5)
    if isinstance(cache, PagedLayer) and uses_operators():
        heads, kv_heads = sizes[0] // head_dim, sizes[1] // head_dim
        pages = CachePages(*cache.pages, cache.step.table, cache.step.past)
        query = operators.paged_append_rotary(fused, *rotary, pages, heads, kv_heads)
        return operators.paged_cached_attention(query, pages, head_dim**-0.5)
    if training.usable(fused):
        heads, kv_heads = sizes[0] // head_dim, sizes[1] // head_dim
        query, key, value = training.split_rotary(fused, *rotary, heads, kv_heads, head_dim**-0.5)
        if cache is not None:
            key, value = cache.update(key, value)
        return _attend_scaled(query, key, value, mask, group, dropout)
    query, key, value = split_qkv_blocks(fused, sizes, head_dim)
    query, key = apply_rotary_interleaved(query, *rotary), apply_rotary_interleaved(key, *rotary)
    return attend(query, key, value, mask, cache, group, dropout)


def paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: PagedLayer,
    group: ProcessGroup,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """`attend` for rows in pages, of which those of similar length are taken together."""
    cache.append(key, value)
    step, outputs = cache.step, []
    for rows, mask in zip(step.groups, _group_masks(step), strict=True):
        own = query if len(step.groups) == 1 else paddle.index_select(query, rows.rows, axis=0)
        output = grouped_query_attention(own, *cache.gather(rows), mask, group, 0.0, qk_layer_scaling)
        outputs.append(output)
    if len(outputs) == 1:
        return outputs[0]
    return paddle.index_select(paddle.concat(outputs), step.order, axis=0)


@remember_last
def _group_masks(step: PageStep) -> list[AttentionMask]:
    return [AttentionMask(group.visible, step.tokens) for group in step.groups]


def grouped_query_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    group: ProcessGroup,
    dropout: float = 0.0,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v with the softmax in float32.

    query: [batch, heads, tokens, head_dim]; key, value: [batch, key_value_heads, total, head_dim], each
    shared by consecutive query heads; qk_layer_scaling: scores are divided by it until they are float32,
    since they may overflow float16. Returns [batch, tokens, heads * head_dim].
    """
    operands = autocast_operands(query, key, value)
    if attends_fused(*operands, mask, dropout):
        with sharded_rng(group) if dropout else nullcontext():
            return fused_attention(*operands, mask, dropout)
    scaled = query * (1.0 / (math.sqrt(query.shape[3]) * qk_layer_scaling))
    return _attend_scaled(scaled, key, value, mask, group, dropout, qk_layer_scaling)


def _attend_scaled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    group: ProcessGroup,
    dropout: float,
    qk_layer_scaling: float = 1.0,
) -> Tensor:
    """`grouped_query_attention` for queries that are divided by sqrt(head_dim) * qk_layer_scaling.

    It holds all scores at once for short rows, and in graphs; otherwise it goes by blocks of queries.
    """
    with sharded_rng(group) if dropout else nullcontext():
        if paddle.in_dynamic_mode() and query.shape[2] >= BLOCKWISE_TOKENS:
            query, key, value = autocast_operands(query, key, value)
            return blockwise_attention(query, key, value, mask, dropout, qk_layer_scaling)
        return _dense_attention(query, key, value, mask.dense, dropout, qk_layer_scaling)


def _dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    dropout: float,
    qk_layer_scaling: float,
) -> Tensor:
    """`_attend_scaled` with an additive float32 mask, [batch or 1, 1, tokens, total]."""
    heads, groups, head_dim = query.shape[1], key.shape[1], query.shape[3]
    # The query heads of a group are stacked along the tokens, so that keys need not be repeated.
    stacked = query.reshape([0, groups, -1, head_dim])
    scores = paddle.matmul(stacked, key, transpose_y=True)
    weights = attention_weights(scores, mask, heads // groups, qk_layer_scaling)
    if dropout:
        weights = F.dropout(weights, dropout)
    weights = weights.astype(value.dtype)
    attn_output: Tensor = paddle.matmul(weights, value).reshape([0, heads, -1, head_dim])
    return attn_output.transpose([0, 2, 1, 3]).reshape([0, 0, heads * head_dim])
