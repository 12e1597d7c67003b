"""Paddle's fused GPU operators: the only calls of them, with their layouts.

`usage.fused` says where they compute. Their signatures are those of the 3.3.1 wheel; each docstring names the
source of the kernel (PaddlePaddle/Paddle, 3.3). Activations are float16 or bfloat16, of the weight's dtype;
kernels round once, at their end.
"""

from functools import cache
from typing import Literal, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.incubate.nn.functional import (
    block_multihead_attention,
    fused_rms_norm,
    fused_rotary_position_embedding,
    masked_multihead_attention,
)
from paddle.nn.functional.flash_attention import flashmask_attention
from paddle.nn.quant import weight_only_linear

from paddle_glm.kernels.gpu_packing import TILE

_DECODE_HEAD_DIMS = (32, 64, 96, 128)
_PAGED_COLUMNS = 15000
_XQA_FLAG = "FLAGS_use_xqa_optim"
# Compute capabilities that its matrix products are built for; 9.0 runs the code for 8.0.
_PRODUCT_CAPABILITIES = (80, 86, 89, 90)
# Inputs per scale, None for one scale per output -> what Paddle's product calls it.
_GROUP_SIZES: dict[int | None, Literal[-1, 64, 128]] = {None: -1, 64: 64, 128: 128}


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x [..., size] / sqrt(mean(x^2) + epsilon) * weight [size], with gradients of both.

    phi/kernels/gpu/rms_norm_cuda_kernel.h: saves x and a float32 per row; a frozen weight gets no gradient.
    """
    return F.rms_norm(x, [x.shape[-1]], weight, epsilon)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + residual [..., size], and its `rms_norm`; without gradients.

    phi/kernels/gpu/rms_norm_kernel.cu (ResidualAddBiasLoad): normalises the rounded sum.
    """
    axis = x.ndim - 1
    y, total = fused_rms_norm(x, weight, None, epsilon, begin_norm_axis=axis, residual=residual)[:2]
    return total, y


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """(x [..., size] - mean) / sqrt(variance + epsilon) * weight [size] + bias [size]; without gradients.

    phi/kernels/gpu/layer_norm_kernel.cu: mean and variance are float32.
    """
    return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)


def swiglu(x: Tensor) -> Tensor:
    """silu(first half of the last axis) * second half, [..., 2 * n] -> [..., n], with a gradient; saves x.

    phi/kernels/gpu/swiglu_kernel.cu.
    """
    return F.swiglu(x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, adjacent: bool) -> Tensor:
    """x * cos + rotated x * sin, with a gradient of x.

    x: [batch, tokens, heads, size], any strides; cos, sin: [batch, tokens, size], of x's dtype.
    adjacent: channels 2i and 2i + 1 are a pair (Paddle's "neox" style), else i and i + size / 2; the rotated
    first of a pair is minus the second, the rotated second is the first.
    phi/kernels/fusion/gpu/fused_rope_utils.h: a row of cos and sin per position, the same in every row of the
    batch; so all tokens are passed as one row.
    """
    batch, tokens, heads, size = x.shape
    row = [1, batch * tokens, heads, size]
    table = [1, batch * tokens, 1, size]
    rotated = fused_rotary_position_embedding(
        x.reshape(row),
        sin=sin.reshape(table),
        cos=cos.reshape(table),
        use_neox_rotary_style=adjacent,
    )[0]
    return rotated.reshape([batch, tokens, heads, size])


def can_attend(head_dim: int, dropout: float) -> bool:
    """Whether `attention` takes these: Ampere or later; FlashAttention 3, where chosen, has no dropout."""
    if capability() < 80 or head_dim % 8 or head_dim > 256:
        return False
    return not dropout or _flash_version() == 2


def _flash_version() -> int:
    return int(paddle.get_flags(["FLAGS_flash_attn_version"])["FLAGS_flash_attn_version"])


def attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, causal: bool, dropout: float
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v with the softmax in float32, with gradients of all three.

    query: [batch, tokens, heads, head_dim]; key, value: [batch, tokens, key_value_heads, head_dim], each
    shared by consecutive heads; as many keys as queries. rows: int32 [batch, 1, tokens, 1 or 2], of each key:
    the query from which on it is hidden, and if not causal, the one before which it is. Returns the shape of
    query.
    phi/kernels/gpu/flash_attn_kernel.cu and flash_attn_utils.h: saves its operands, the output and a float32
    per head and query; its dropout draws from Paddle's current generator.
    """
    output: Tensor = flashmask_attention(query, key, value, rows, dropout=dropout, causal=causal)
    return output


def can_decode(batch: int, columns: int, head_dim: int) -> bool:
    """Whether `decode_attention` takes a cache of so many columns.

    masked_multihead_attention_kernel.cu is built for these sizes of a head. From 1024 columns on it splits
    those of up to 4 rows; with more rows the scores of a head must fit into a processor's shared memory, and
    all GPUs have 64 KB.
    """
    return head_dim in _DECODE_HEAD_DIMS and columns % 4 == 0 and (batch <= 4 or columns <= 1 << 14)


def decode_attention(qkv: Tensor, buffer: Tensor, mask: Tensor, columns: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v of a token per row, whose key and value are written in place.

    qkv: [batch, (heads + 2 * kv_heads) * head_dim], queries, keys, values, all rotated; consecutive heads
    share a key/value head. buffer: [2, batch, kv_heads, capacity, head_dim], contiguous, as
    `kv_cache.decode.DecodeLayer` has it. mask: additive, [batch, 1, 1, capacity], of qkv's dtype.
    columns: int32 [batch, 1], each row's column to write; those before it are read. Returns
    [batch, heads * head_dim].
    phi/kernels/fusion/gpu/masked_multihead_attention_kernel.cu. Its own rotary embedding is not used: for
    float16 and 128 channels it rotates every second pair of a key by its neighbour's sine
    (mmha_util.cu.h of the 3.3.1 wheel). It reserves shared memory for as many scores as a multiple of 4 not
    below the mask's columns less one, so capacity is a multiple of 4.
    """
    return masked_multihead_attention(qkv, cache_kv=buffer, src_mask=mask, sequence_lengths=columns)[0]


def can_decode_pages(columns: int, head_dim: int, shared_heads: int) -> bool:
    """Whether `decode_pages` takes rows of up to so many columns, `shared_heads` to a key/value head.

    block_attn.h is built for these sizes of a head; the scores of a row and its pages' numbers must fit into
    a processor's shared memory, and all GPUs have 64 KB. FLAGS_use_xqa_optim leaves few numbers of heads.
    """
    return (
        head_dim in _DECODE_HEAD_DIMS
        and columns <= _PAGED_COLUMNS
        and (shared_heads == 1 or not paddle.get_flags([_XQA_FLAG])[_XQA_FLAG])
    )


class PagedRows(NamedTuple):
    """Where rows are for `decode_pages`, the same for all layers of a step; see `paged_rows`."""

    no_prompts: Tensor
    past: Tensor
    tokens: Tensor
    offsets: Tensor
    bounds: Tensor
    table: Tensor
    longest_prompt: Tensor
    longest: Tensor


def paged_rows(table: Tensor, past: Tensor, longest: int) -> PagedRows:
    """table: int64 [batch, pages of a row]; past: int64 [batch], the column of each row to write, at least 1;
    longest: the largest of them.

    A token of every row and none of a prompt: with max_seq_len 1 all offsets are 0. The kernel reads both
    largest lengths on the host.
    """
    batch = len(past)
    zeros, ones = paddle.zeros([batch, 1], dtype="int32"), paddle.ones([batch, 1], dtype="int32")
    offsets, bounds = paddle.zeros([batch], dtype="int32"), paddle.zeros([batch + 1], dtype="int32")
    no_prompt, largest = (paddle.full([1], one, "int32", device=paddle.CPUPlace()) for one in (0, longest))
    table, past = table.astype("int32"), past.astype("int32").unsqueeze(1)
    return PagedRows(zeros, past, ones, offsets, bounds, table, no_prompt, largest)


def decode_pages(qkv: Tensor, pages: tuple[Tensor, Tensor], rows: PagedRows) -> Tensor:
    """`decode_attention` over rows in pages, of which each token sees all columns of its row.

    qkv: [batch, (heads + 2 * kv_heads) * head_dim], as there. pages: keys and values, [pages, kv_heads, 64,
    head_dim] each, contiguous. Returns [batch, heads * head_dim].
    phi/kernels/fusion/gpu/block_multi_head_attention_kernel.cu and block_attn.h (block_attention_kernel): a
    row and head is one block of threads, whatever the other rows.
    """
    return block_multihead_attention(
        qkv,
        pages[0],
        pages[1],
        rows.no_prompts,
        rows.past,
        rows.tokens,
        rows.offsets,
        rows.offsets,
        rows.bounds,
        rows.bounds,
        rows.table,
        max_enc_len_this_time=rows.longest_prompt,
        max_dec_len_this_time=rows.longest,
        max_seq_len=1,
        block_size=pages[0].shape[2],
    )[0]


@cache
def capability() -> int:
    """Compute capability of the current GPU, 80 for 8.0."""
    major, minor = paddle.device.cuda.get_device_capability()
    return 10 * major + minor


def product_obstacle(out_features: int, in_features: int, group_size: int | None) -> str | None:
    """Why `quantized_linear` does not take a weight on this GPU; None where it does.

    fpA_intB_gemm_template.cu throws for other GPUs and for inputs that are not whole tiles; outputs are
    those of a warp of weight_only_gemv.cu.
    """
    if capability() not in _PRODUCT_CAPABILITIES:
        known = ", ".join(f"{one / 10}" for one in _PRODUCT_CAPABILITIES)
        return f"compute capability {capability() / 10}, where Paddle's product takes {known}"
    if group_size not in _GROUP_SIZES:
        return f"group size {group_size}, where Paddle's product takes 64, 128 or one scale per output"
    if in_features % TILE or out_features % 16:
        return (
            f"{out_features} outputs of {in_features} inputs, where Paddle's product takes multiples of 16 "
            f"and {TILE}"
        )
    return None


def quantized_linear(x: Tensor, values: Tensor, scale: Tensor, bits: int, group_size: int | None) -> Tensor:
    """x [..., in] @ weight [out, in].T -> [..., out], without gradients.

    values: int8 [out, in * bits / 8] in the order of `gpu_packing.pack`, which Paddle takes as [out, in] for
    8 bits and [out / 2, in] for 4; scale: [out], or [in / group_size, out], of x's dtype.
    phi/kernels/gpu/weight_only_linear_kernel.cu: up to 3 rows by weight_only_gemv.cu, which adds within a
    thread in half precision; more by a CUTLASS product, tuned when a shape is first seen.
    """
    inputs = values.shape[1] * 8 // bits
    return weight_only_linear(
        x,
        values.reshape([-1, inputs]),
        weight_scale=scale,
        weight_dtype=f"int{bits}",  # type: ignore[arg-type]  # "int4" is not in its annotation
        arch=capability(),
        group_size=_GROUP_SIZES[group_size],
    )
