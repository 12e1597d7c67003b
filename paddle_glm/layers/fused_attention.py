"""Attention of many tokens by the GPUs' fused operator: memory linear in the length."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.kernels import gpu
from paddle_glm.kernels.usage import fused
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.precision import autocast_disabled


def attends_fused(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, dropout: float) -> bool:
    """Whether `fused_attention` takes these. One token attends to its cache by other operators."""
    return (
        paddle.in_dynamic_mode()
        and query.shape[2] > 1
        and not mask.is_explicit
        and fused(query, key, value)
        and gpu.can_attend(query.shape[3], dropout)
    )


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v with the softmax in float32.

    query: [batch, heads, tokens, head_dim]; key, value: [batch, key_value_heads, columns, head_dim], float16
    or bfloat16. Scores are float32 throughout, so they need no scaling by layer. Returns
    [batch, tokens, heads * head_dim].
    """
    tokens, columns = query.shape[2], key.shape[2]
    behind = mask.unused
    before = columns - behind - tokens
    if before or behind:  # the operator takes as many queries as keys
        query = F.pad(query, [0, 0, 0, 0, before, behind, 0, 0], pad_from_left_axis=True)
    first, end = mask.square
    causal = mask.context is None
    rows = paddle.stack([end] if causal else [end, first], axis=-1).unsqueeze(1)
    query, key, value = (one.transpose([0, 2, 1, 3]) for one in (query, key, value))
    with autocast_disabled():
        output = gpu.attention(query, key, value, rows, causal, dropout)
    return output[:, before : before + tokens].flatten(2)
