"""Rotary position embeddings (arXiv:2104.09864) of adjacent channel pairs or of two halves."""

import ml_dtypes
import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.kernels import gpu
from paddle_glm.kernels.usage import fused
from paddle_glm.layers.remember import remember_last

_NUMPY_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def rotary_table(
    length: int, size: int, dtype: str = "float32", base: float = 10000.0, position_scale: float = 1.0
) -> Array:
    """cos and sin of position x frequency, float32 [length, size]: size / 2 cosines, then size / 2 sines.

    size: number of rotated channels per head. dtype: frequencies and positions are rounded to it at every
    step, as `RotaryEmbedding.forward_impl` of ChatGLM2's modeling_chatglm.py does in half precision.
    position_scale: divides positions (arXiv:2306.15595).
    """
    scalar_type = _NUMPY_DTYPES[dtype]
    exponent = np.arange(0, size, 2).astype(scalar_type) / scalar_type(size)
    frequencies = scalar_type(1.0) / np.power(scalar_type(base), exponent).astype(scalar_type)
    return cos_sin_table(length, frequencies, dtype, position_scale)


def cos_sin_table(
    length: int, frequencies: Array, dtype: str = "float32", position_scale: float = 1.0
) -> Array:
    """cos and sin of position / position_scale x frequency, rounded to `dtype`: float32 [length, 2 * n].

    frequencies: [n].
    """
    scalar_type = _NUMPY_DTYPES[dtype]
    positions = (
        np.arange(length).astype(scalar_type).astype(np.float32) / np.float32(position_scale)
    ).astype(scalar_type)
    angles = np.outer(positions, frequencies.astype(scalar_type)).astype(scalar_type)
    angles_float32 = angles.astype(np.float32)
    table: Array = np.concatenate([np.cos(angles_float32), np.sin(angles_float32)], axis=1)
    return table.astype(scalar_type).astype(np.float32)


def rotary_cos_sin(table: Tensor, position_ids: Tensor, dtype: paddle.dtype) -> tuple[Tensor, Tensor]:
    """table [length, size], position_ids [batch, tokens] -> cos, sin, each [batch, 1, tokens, size / 2]."""
    rows = F.embedding(position_ids, table).unsqueeze(1).astype(dtype)
    cos, sin = rows.chunk(2, axis=-1)
    return cos, sin


def apply_rotary_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent pairs of the first `size` channels of each head; the other channels pass through.

    x: [batch, heads, tokens, head_dim]; cos, sin: [batch, 1, tokens, size / 2]. Returns the shape of x.
    """
    heads, head_dim, half = x.shape[1], x.shape[3], cos.shape[-1]
    if fused(x, cos, sin):
        tables = _per_channel(cos, sin, head_dim, True)
        return gpu.rotate(x.transpose([0, 2, 1, 3]), *tables[0], adjacent=True).transpose([0, 2, 1, 3])
    x_rot, x_pass = x.split([2 * half, head_dim - 2 * half], axis=-1)
    pairs = x_rot.reshape([0, heads, -1, half, 2])
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = paddle.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return paddle.concat([rotated.reshape([0, heads, -1, 2 * half]), x_pass], axis=-1)


def rotary_cos_sin_per_row(table: Tensor, position_ids: Tensor, dtype: paddle.dtype) -> tuple[Tensor, Tensor]:
    """Like `rotary_cos_sin` for several position rows: table [length, size], position_ids
    [batch, rows, tokens] -> cos, sin, each [batch, 1, tokens, rows, size / 2].
    """
    cos_sin = F.embedding(position_ids.transpose([0, 2, 1]), table).unsqueeze(1).astype(dtype)
    cos, sin = cos_sin.chunk(2, axis=-1)
    return cos, sin


def apply_rotary_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Split each head into one part per position row, and rotate the two halves of each part by its row.

    x: [batch, heads, tokens, head_dim]; cos, sin: [batch, 1, tokens, rows, head_dim / rows / 2]. Returns the
    shape of x.
    """
    heads, head_dim, rows, half = x.shape[1], x.shape[3], cos.shape[3], cos.shape[4]
    if fused(x, cos, sin):
        tables = _per_channel(cos, sin, 2 * half, False)
        turned = zip(x.transpose([0, 2, 1, 3]).chunk(rows, axis=-1), tables, strict=True)
        rotated_parts = [gpu.rotate(part, *table, adjacent=False) for part, table in turned]
        return paddle.concat(rotated_parts, axis=-1).transpose([0, 2, 1, 3])
    parts = x.reshape([0, heads, -1, rows, 2, half])
    first, second = parts[..., 0, :], parts[..., 1, :]
    rotated = paddle.stack([first * cos - second * sin, second * cos + first * sin], axis=-2)
    return rotated.reshape([0, heads, -1, head_dim])


@remember_last
def _per_channel(cos: Tensor, sin: Tensor, size: int, adjacent: bool) -> list[tuple[Tensor, Tensor]]:
    """cos and sin of every channel, [batch, tokens, size] each, for every position row.

    cos, sin: [batch, 1, tokens, half], or [batch, 1, tokens, rows, half]. Channels from 2 * half on are not
    rotated.
    """
    tables = []
    for row in range(1 if cos.ndim == 4 else cos.shape[3]):
        table = []
        for values, unrotated in ((cos, 1.0), (sin, 0.0)):
            one = values.squeeze(1) if values.ndim == 4 else values[:, 0, :, row]
            both = paddle.stack([one, one], axis=-1 if adjacent else -2).flatten(-2)
            if rest := size - both.shape[2]:
                ending = paddle.full([*both.shape[:2], rest], unrotated, dtype=both.dtype)
                both = paddle.concat([both, ending], axis=-1)
            table.append(both)
        tables.append((table[0], table[1]))
    return tables
