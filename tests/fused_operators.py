"""Plain implementations of Paddle's fused GPU operators, as its documentation describes them.

They stand in for operators without a CPU kernel, check shapes and dtypes as those do, and have gradients.
"""

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from paddle_glm.kernels import gpu, gpu_packing, packing, training, usage
from paddle_glm.numpy_interop import cpu_view
from paddle_glm.quantization import dequantize


def rms_norm(input: Tensor, normalized_shape: list[int], weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`paddle.nn.functional.rms_norm`."""
    assert normalized_shape == input.shape[-1:] == weight.shape and weight.dtype == input.dtype
    inverse = paddle.rsqrt(input.square().mean(axis=-1, keepdim=True) + eps)
    return input * inverse * weight, inverse.flatten()


def rotary(q: Tensor, *, sin: Tensor, cos: Tensor, use_neox_rotary_style: bool) -> tuple[Tensor, None, None]:
    """`paddle.incubate.nn.functional.fused_rotary_position_embedding` of q [batch, tokens, heads, size]."""
    _, tokens, _, size = q.shape
    assert sin.shape == cos.shape == [1, tokens, 1, size] and sin.dtype == cos.dtype == q.dtype
    if use_neox_rotary_style:
        turned = paddle.stack([-q[..., 1::2], q[..., 0::2]], axis=-1).flatten(-2)
    else:
        turned = paddle.concat([-q[..., size // 2 :], q[..., : size // 2]], axis=-1)
    return q * cos + turned * sin, None, None


def masked_multihead_attention(
    x: Tensor, *, cache_kv: Tensor, src_mask: Tensor, sequence_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """`paddle.incubate.nn.functional.masked_multihead_attention`; writes to `cache_kv`."""
    _, batch, kv_heads, capacity, size = cache_kv.shape
    heads = x.shape[1] // size - 2 * kv_heads
    assert cache_kv.is_contiguous() and cache_kv.dtype == src_mask.dtype == x.dtype
    assert src_mask.shape == [batch, 1, 1, capacity] and capacity % 4 == 0
    assert sequence_lengths.shape == [batch, 1] and sequence_lengths.dtype == paddle.int32
    keys, values = cpu_view(cache_kv)
    n = 16 // keys.itemsize
    keys = keys.reshape(batch, kv_heads, size // n, capacity, n)
    qkv = x.numpy().reshape(batch, heads + 2 * kv_heads, size)
    out = np.empty((batch, heads, size), np.float32)
    for row, column in enumerate(sequence_lengths.numpy()[:, 0]):
        keys[row, :, :, column] = qkv[row, heads : heads + kv_heads].reshape(kv_heads, size // n, n)
        values[row, :, column] = qkv[row, heads + kv_heads :]
        bias = src_mask.numpy()[row, 0, 0, : column + 1]
        for head in range(heads):
            group = head * kv_heads // heads
            read = keys[row, group, :, : column + 1].transpose(1, 0, 2).reshape(-1, size)
            scores = read @ qkv[row, head] / np.sqrt(size) + bias
            weights = np.exp(scores - scores.max())
            out[row, head] = weights / weights.sum() @ values[row, group, : column + 1]
    return paddle.to_tensor(out.reshape(batch, -1)), cache_kv


def block_multihead_attention(
    qkv: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    seq_lens_encoder: Tensor,
    seq_lens_decoder: Tensor,
    seq_lens_this_time: Tensor,
    padding_offsets: Tensor,
    cum_offsets: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    block_tables: Tensor,
    *,
    max_enc_len_this_time: Tensor,
    max_dec_len_this_time: Tensor,
    max_seq_len: int,
    block_size: int,
) -> tuple[Tensor, ...]:
    """`paddle.incubate.nn.functional.block_multihead_attention` for a token of every row; writes to both."""
    batch, (_, kv_heads, held, size) = len(qkv), key_cache.shape
    heads = qkv.shape[1] // size - 2 * kv_heads
    lengths = seq_lens_decoder.numpy()[:, 0]
    assert key_cache.is_contiguous() and value_cache.is_contiguous() and held == block_size == 64
    assert key_cache.dtype == value_cache.dtype == qkv.dtype
    integers = (seq_lens_encoder, seq_lens_decoder, seq_lens_this_time, cum_offsets, block_tables)
    assert all(one.dtype == paddle.int32 and len(one) == batch for one in integers)
    assert not seq_lens_encoder.any() and (seq_lens_this_time == 1).all() and (lengths > 0).all()
    assert (max_enc_len_this_time.item(), max_dec_len_this_time.item()) == (0, lengths.max())
    keys, values = cpu_view(key_cache), cpu_view(value_cache)
    tokens = qkv.numpy().reshape(batch, heads + 2 * kv_heads, size)
    out = np.empty((batch, heads, size), np.float32)
    for row, past in enumerate(lengths):
        token = tokens[row * max_seq_len - cum_offsets.numpy()[row]]
        pages = block_tables.numpy()[row, : past // block_size + 1]
        keys[pages[-1], :, past % block_size] = token[heads : heads + kv_heads]
        values[pages[-1], :, past % block_size] = token[heads + kv_heads :]
        for head in range(heads):
            group = head // (heads // kv_heads)
            key, value = (one[pages, group].reshape(-1, size)[: past + 1] for one in (keys, values))
            scores = key @ token[head] / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            out[row, head] = weights / weights.sum() @ value
    return paddle.to_tensor(out.reshape(batch, -1)), qkv, key_cache, value_cache


def weight_only_linear(
    x: Tensor, weight: Tensor, *, weight_scale: Tensor, weight_dtype: str, arch: int, group_size: int
) -> Tensor:
    """`paddle.nn.quant.weight_only_linear`; weight and scale as `weight_quantize` gives them."""
    bits, inputs = int(weight_dtype.removeprefix("int")), x.shape[-1]
    assert weight.dtype == paddle.int8 and weight.shape[1] == inputs and weight_scale.dtype == x.dtype
    hub = gpu_packing.unpack(weight.reshape([-1, inputs * bits // 8]), bits).numpy()
    groups = None if group_size == -1 else inputs // group_size
    assert weight_scale.shape == [len(hub)] if groups is None else [groups, len(hub)]
    floats = dequantize(hub, weight_scale.numpy() if groups is None else weight_scale.numpy().T, bits)
    return paddle.matmul(x, paddle.to_tensor(floats), transpose_y=True)


def flashmask_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    startend_row_indices: Tensor,
    *,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """`paddle.nn.functional.flashmask_attention` of operands [batch, tokens, heads, head_dim]."""
    (batch, tokens, heads, size), kv_heads = query.shape, key.shape[2]
    assert key.shape == value.shape == [batch, tokens, kv_heads, size] and heads % kv_heads == 0
    assert startend_row_indices.shape == [batch, 1, tokens, 1 if causal else 2]
    assert startend_row_indices.dtype == paddle.int32 and query.dtype == key.dtype == value.dtype
    bounds = startend_row_indices.unsqueeze(2)  # [batch, 1, 1, columns, bounds]
    columns = paddle.arange(tokens, dtype="int32")
    rows = columns.unsqueeze(1)
    seen = (rows < bounds[..., 0]) & (rows >= (columns if causal else bounds[..., 1]))
    assert bool(seen.any(axis=-1).all())  # a softmax of nothing would depend on the kernel
    key, value = (one.repeat_interleave(heads // kv_heads, axis=2) for one in (key, value))
    scores = paddle.einsum("bqhd,bkhd->bhqk", query, key) / size**0.5
    weights = F.softmax(paddle.where(seen, scores, paddle.full_like(scores, float("-inf"))), axis=-1)
    return paddle.einsum("bhqk,bkhd->bqhd", F.dropout(weights, dropout), value)


class Calls:
    """How often each operator was called."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def counted(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.counts[name] = self.counts.get(name, 0) + 1
            return function(*arguments, **keywords)

        return call


def use_fused_operators(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Let float32 on this CPU pass for half precision on a GPU without native CPU kernels."""
    calls = Calls()
    monkeypatch.setattr(usage, "_HALF", (paddle.float32,))
    monkeypatch.setattr(usage, "on_gpu", lambda tensor: True)
    for module in (usage, training, packing):
        monkeypatch.setattr(module, "kernel_library", lambda: None)
    monkeypatch.setattr(F, "rms_norm", calls.counted("rms_norm", rms_norm))
    monkeypatch.setattr(gpu, "layer_norm", calls.counted("layer_norm", gpu.layer_norm))
    monkeypatch.setattr(F, "swiglu", calls.counted("swiglu", F.swiglu))
    monkeypatch.setattr(gpu, "fused_rms_norm", calls.counted("add_rms_norm", gpu.fused_rms_norm))
    monkeypatch.setattr(gpu, "fused_rotary_position_embedding", calls.counted("rotary", rotary))
    decode = calls.counted("decode", masked_multihead_attention)
    monkeypatch.setattr(gpu, "masked_multihead_attention", decode)
    paged = calls.counted("pages", block_multihead_attention)
    monkeypatch.setattr(gpu, "block_multihead_attention", paged)
    attention = calls.counted("attention", flashmask_attention)
    monkeypatch.setattr(gpu, "flashmask_attention", attention)
    monkeypatch.setattr(gpu, "weight_only_linear", calls.counted("product", weight_only_linear))
    monkeypatch.setattr(gpu, "capability", lambda: 80)
    return calls
