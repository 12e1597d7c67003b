"""Attention of one token per row by the GPUs' fused operator."""

import paddle
from paddle import Tensor

from paddle_glm.kernels import gpu
from paddle_glm.kernels.usage import fused
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.pages import PagedLayer, PageStep
from paddle_glm.layers.remember import remember_last

# Added to a masked score: exp underflows to 0, and float16 holds it.
_MASKED = -6e4


def decodes(query: Tensor, key: Tensor, cache: DecodeLayer, qk_layer_scaling: float) -> bool:
    """Whether `decode_attention` computes this step.

    It adds products of 16 channels in the dtype of the query, so that scores which need `qk_layer_scaling`
    may overflow float16.
    """
    return (
        query.shape[2] == 1
        and cache.length > 0
        and not paddle.is_grad_enabled()
        and fused(query, key)
        and (qk_layer_scaling == 1.0 or query.dtype != paddle.float16)
        and gpu.can_decode(query.shape[0], cache.length + 1 + cache.spare(1), query.shape[3])
    )


def decodes_pages(query: Tensor, key: Tensor, cache: PagedLayer, qk_layer_scaling: float) -> bool:
    """As `decodes`, whether `decode_pages` computes this step."""
    return (
        query.shape[2] == 1
        and not paddle.is_grad_enabled()
        and fused(query, key, *cache.pages)
        and (qk_layer_scaling == 1.0 or query.dtype != paddle.float16)
        and gpu.can_decode_pages(cache.step.longest + 1, query.shape[3], query.shape[1] // key.shape[1])
    )


def decode_pages(query: Tensor, key: Tensor, value: Tensor, cache: PagedLayer) -> Tensor:
    """`decode_attention` over rows in pages."""
    qkv = paddle.concat([query, key, value], axis=1).flatten(1)
    return gpu.decode_pages(qkv, cache.pages, _paged_rows(cache.step)).unsqueeze(1)


@remember_last
def _paged_rows(step: PageStep) -> gpu.PagedRows:
    return gpu.paged_rows(step.table, step.past, step.longest)


def decode_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, cache: DecodeLayer) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v over the cache, to which key and value are appended.

    query: [batch, heads, 1, head_dim]; key, value: [batch, key_value_heads, 1, head_dim]; mask: additive,
    float32 [batch or 1, 1, 1, columns that the cache then has]. Returns [batch, 1, heads * head_dim].
    """
    buffer, column = cache.decode_buffer()
    qkv = paddle.concat([query, key, value], axis=1).flatten(1)
    operands = _mask_and_columns(mask, query.shape[0], query.dtype, column)
    return gpu.decode_attention(qkv, buffer, *operands).unsqueeze(1)


@remember_last
def _mask_and_columns(mask: Tensor, batch: int, dtype: paddle.dtype, column: int) -> tuple[Tensor, Tensor]:
    """The mask [batch, 1, 1, columns] in `dtype`, and int32 [batch, 1] of `column`."""
    mask = mask.clip(min=_MASKED).astype(dtype).expand([batch, *mask.shape[1:]]).contiguous()
    return mask, paddle.full([batch, 1], column, dtype="int32")
