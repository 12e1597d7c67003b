"""Rotary position embeddings (arXiv:2104.09864), interleaved, as ChatGLM2 applies them."""

import ml_dtypes
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

_NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def rotary_table(length: int, size: int, dtype: str = "float32", base: float = 10000.0) -> np.ndarray:
    """cos and sin of position x frequency, float32 [length, size]: size / 2 cosines, then as many sines.

    size: how many channels of a head rotate. dtype: what frequencies and positions are rounded to, step
    by step as `RotaryEmbedding.forward_impl` of ChatGLM2's modeling_chatglm.py does in half precision.
    """
    kind = _NUMPY[dtype]
    exponent = np.arange(0, size, 2).astype(kind) / kind(size)
    theta = kind(1.0) / np.power(kind(base), exponent).astype(kind)
    angles = np.outer(np.arange(length).astype(kind), theta).astype(kind).astype(np.float32)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(kind).astype(np.float32)


def lookup_rotary(table: Tensor, position_ids: Tensor, dtype: paddle.dtype) -> tuple[Tensor, Tensor]:
    """table [length, size], position_ids [batch, tokens] -> cos, sin, each [batch, 1, tokens, size / 2]."""
    rows = F.embedding(position_ids, table).unsqueeze(1).astype(dtype)
    cos, sin = rows.chunk(2, axis=-1)
    return cos, sin


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the first channels of each head; the other channels pass.

    x: [batch, heads, tokens, head_dim]; cos, sin: [batch, 1, tokens, size / 2].
    """
    heads, head_dim, half = x.shape[1], x.shape[3], cos.shape[-1]
    turning, passing = x.split([2 * half, head_dim - 2 * half], axis=-1)
    pairs = turning.reshape([0, heads, -1, half, 2])
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = paddle.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return paddle.concat([turned.reshape([0, heads, -1, 2 * half]), passing], axis=-1)
