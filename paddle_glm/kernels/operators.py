"""The native operators, in dygraph and in traced graphs; see csrc/operators_*.cc."""

from typing import Any, NamedTuple

import paddle
from paddle import Tensor, _C_ops


class LinearWeight(NamedTuple):
    """A weight [out, in] that the operators multiply by.

    values: int8 [out, in * bits / 8] in kernel order with scale float32 [out] or [out, groups]; or float16,
    bfloat16 or float32 [out, in] with neither scale nor bits.
    """

    values: Tensor
    scale: Tensor | None = None
    bits: int = 0


class CacheBuffers(NamedTuple):
    """A layer's cache of padded rows, of which each has the same columns.

    keys, values: float32 [batch, kv heads, capacity, head_dim], contiguous, written in place.
    mask: additive, float32 [batch or 1, 1, tokens, at least past + tokens].
    past: int64 [1], columns in use before this call's tokens, on the CPU.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    past: Tensor


class CachePages(NamedTuple):
    """A layer's cache in pages of 64 columns: token i of row r sees the columns 0..past[r] + i.

    keys, values: float32 [pages, kv heads, 64, head_dim], contiguous, written in place.
    table: int64 [batch, pages of a row], on the CPU: columns i * 64 and on of row r are those of page
        table[r, i]. What is behind a row's last column is not read.
    past: int64 [batch], each row's columns in use before this call's tokens, on the CPU.
    """

    keys: Tensor
    values: Tensor
    table: Tensor
    past: Tensor


def quantized_linear(x: Tensor, values: Tensor, scale: Tensor, bits: int, arithmetic: str = "auto") -> Tensor:
    """x float32 [..., in] @ weight in kernel order [out, in].T -> float32 [..., out].

    values: int8 [out, in * bits / 8]; scale: float32 [out] or [out, groups]. arithmetic: see csrc/kernels.h.
    """
    return _call("quantized_linear", x, values, scale, bits, arithmetic)


def quantized_linear_transposed(
    grad: Tensor, values: Tensor, scale: Tensor, bits: int, arithmetic: str = "float32"
) -> Tensor:
    """grad float32 [..., out] @ weight in kernel order [out, in] -> float32 [..., in]."""
    return _call("quantized_linear_transposed", grad, values, scale, bits, arithmetic)


def quantized_embedding(ids: Tensor, values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Rows of a weight in kernel order: ids int64 [...] -> float32 [..., in]."""
    return _call("quantized_embedding", ids, values, scale, bits)


def float_linear(x: Tensor, weight: Tensor, arithmetic: str = "auto") -> Tensor:
    """x float32 [..., in] @ weight float16, bfloat16 or float32 [out, in].T -> float32 [..., out].

    Up to 16 rows of x each have the bits that they have alone. arithmetic: see csrc/float_matmul.h.
    """
    return _call("half_linear", x, weight, arithmetic)


def float_linear_transposed(grad: Tensor, weight: Tensor, arithmetic: str = "auto") -> Tensor:
    """grad float32 [..., out] @ weight float16, bfloat16 or float32 [out, in] -> float32 [..., in]."""
    return _call("half_linear_transposed", grad, weight, arithmetic)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x float32 [..., size] / sqrt(mean(x^2) + epsilon) * weight [size], of any float dtype."""
    return _call("rms_norm", x, weight, epsilon)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """x + residual, and `rms_norm` of it; both float32 of one shape."""
    total, y = run_operator("add_rms_norm", x, residual, weight, epsilon)
    return total, y


def swiglu(x: Tensor) -> Tensor:
    """silu(first half of the last axis) * second half, float32 [..., 2 * n] -> [..., n]."""
    return _call("swiglu", x)


def append_rotary(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_buffer: Tensor,
    value_buffer: Tensor,
    past: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> Tensor:
    """Split a projection, rotate adjacent pairs of channels, and write keys and values to the cache in place.

    qkv: float32 [batch, tokens, (num_heads + 2 * num_kv_heads) * head_dim], queries, keys, values.
    cos, sin: float32 [batch, 1, tokens, half], for the first 2 * half channels of each head.
    key_buffer, value_buffer: float32 [batch, num_kv_heads, capacity, head_dim], contiguous.
    past: int64 [1], the first column to write, on the CPU.
    Returns the queries, float32 [batch, num_heads, tokens, head_dim]. Raises `ValueError` for other buffers.
    """
    _check_contiguous(key_buffer, value_buffer)
    return _call("append_rotary", qkv, cos, sin, key_buffer, value_buffer, past, num_heads, num_kv_heads)


def append_cache(
    key: Tensor, value: Tensor, key_buffer: Tensor, value_buffer: Tensor, past: Tensor
) -> Tensor:
    """Write keys and values, float32 [batch, kv heads, tokens, head_dim], to columns past.. of the cache.

    Returns `past`, which `cached_attention` must be given, so that it comes later in a traced graph. Raises
    `ValueError` for buffers that are not contiguous.
    """
    _check_contiguous(key_buffer, value_buffer)
    return _call("append_cache", key, value, key_buffer, value_buffer, past)


def cached_attention(
    query: Tensor,
    key_buffer: Tensor,
    value_buffer: Tensor,
    mask: Tensor,
    past: Tensor,
    scale: float,
    arithmetic: str = "auto",
) -> Tensor:
    """softmax(scale * q k^T + mask) v over columns 0..past + tokens of the cache.

    query: float32 [batch, heads, tokens, head_dim]; consecutive heads share a key/value head.
    key_buffer, value_buffer: float32 [batch, kv heads, capacity, head_dim], contiguous.
    mask: additive, float32 [batch or 1, 1, tokens, at least past + tokens].
    past: int64 [1], columns in use before this call's tokens, on the CPU.
    arithmetic: see csrc/kernels.h; "int8" and "bfloat16" round the factors of both products to bfloat16, on
        processors that can multiply it.
    Returns float32 [batch, tokens, heads * head_dim].
    """
    return _call("cached_attention", query, key_buffer, value_buffer, mask, past, scale, arithmetic)


def attention_block(
    x: Tensor,
    norm: tuple[Tensor, float],
    qkv: LinearWeight,
    qkv_bias: Tensor | None,
    rotary: tuple[Tensor, Tensor],
    cache: CacheBuffers | CachePages,
    dense: LinearWeight,
    num_heads: int,
    add_input: bool,
    arithmetic: str = "auto",
) -> Tensor:
    """`rms_norm`, product, `append_rotary`, `cached_attention` with 1 / sqrt(head_dim), product; x is added.

    x: float32 [batch, tokens, hidden], the shape of the result. norm: weight and epsilon. qkv_bias: of any
    float dtype. Both weights have the same bits, or none. rotary: cos and sin, see there.
    add_input: whether x is added. Raises `ValueError` for a cache that is not contiguous.
    """
    _check_contiguous(cache.keys, cache.values)
    weight, epsilon = norm
    scale = cache.keys.shape[3] ** -0.5
    return _call(
        "paged_attention_block" if isinstance(cache, CachePages) else "attention_block",
        *(x, weight, qkv.values, qkv.scale, qkv_bias, *rotary, *cache, dense.values, dense.scale),
        *(epsilon, qkv.bits or dense.bits, num_heads, scale, add_input, arithmetic),
    )


def paged_append_rotary(
    qkv: Tensor, cos: Tensor, sin: Tensor, pages: CachePages, num_heads: int, num_kv_heads: int
) -> Tensor:
    """`append_rotary` to a cache in pages."""
    _check_contiguous(pages.keys, pages.values)
    return _call("paged_append_rotary", qkv, cos, sin, *pages, num_heads, num_kv_heads)


def paged_append_cache(key: Tensor, value: Tensor, pages: CachePages) -> Tensor:
    """`append_cache` to a cache in pages."""
    _check_contiguous(pages.keys, pages.values)
    return _call("paged_append_cache", key, value, *pages)


def paged_cached_attention(
    query: Tensor, pages: CachePages, scale: float, arithmetic: str = "auto"
) -> Tensor:
    """`cached_attention` over a cache in pages. A row's result does not depend on the other rows."""
    return _call("paged_cached_attention", query, *pages, scale, arithmetic)


def mlp_block(
    x: Tensor,
    norm: tuple[Tensor, float],
    up: LinearWeight,
    down: LinearWeight,
    add_input: bool,
    arithmetic: str = "auto",
) -> Tensor:
    """`rms_norm`, product, `swiglu`, product; x is added. As `attention_block`."""
    weight, epsilon = norm
    return _call(
        "mlp_block",
        *(x, weight, up.values, up.scale, down.values, down.scale),
        *(epsilon, up.bits or down.bits, add_input, arithmetic),
    )


def _check_contiguous(*buffers: Tensor) -> None:
    # Paddle gives operators a contiguous copy, and what they write would be lost.
    if paddle.in_dynamic_mode() and not all(buffer.is_contiguous() for buffer in buffers):
        raise ValueError("key and value buffers must be contiguous, because they are written in place")


def _call(name: str, *arguments: Any) -> Tensor:
    result: Tensor = run_operator(name, *arguments)[0]
    return result


def run_operator(name: str, *arguments: Any) -> list[Tensor]:
    """The outputs of the operator `paddle_glm_NAME`; inputs first, then attributes."""
    results: Any = _C_ops._run_custom_op(f"paddle_glm_{name}", *arguments)  # type: ignore[attr-defined]
    return list(results) if isinstance(results, list | tuple) else [results]
