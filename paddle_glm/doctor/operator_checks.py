"""Operators at the shapes of ChatGLM2-6B against their formulas in float64, gradients too.

Each goes through the layer that models use, so what computes it here, fused or plain, is what is checked.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddle_glm.array_types import Array, IntArray
from paddle_glm.doctor.model_checks import check_half_precision, exact_products
from paddle_glm.doctor.recorded import relative_error
from paddle_glm.doctor.registry import Context, Finding, check
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.page_pool import PagePool
from paddle_glm.kv_cache.pages import PagedKVCache
from paddle_glm.layers.activation import swiglu
from paddle_glm.layers.attention import attend, grouped_query_attention
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.norm import LayerNorm, RMSNorm
from paddle_glm.layers.rotary import apply_rotary_halves, apply_rotary_interleaved
from paddle_glm.parallel import SINGLE_PROCESS
from paddle_glm.parallel.layers import ColumnParallelLinear, WeightFormat
from paddle_glm.quantization import QuantizationConfig, default_group_size, dequantize, quantize
from paddle_glm.sharding import Segment, column_parallel

# Largest error relative to the root mean square of a result or a gradient.
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
_ROWS, _HIDDEN, _HEADS, _KV_HEADS, _HEAD_DIM = 40, 4096, 8, 2, 128
_TOKENS = 640  # long enough to go by blocks on CPUs
Formula = Callable[..., Any]


def _random(shape: Sequence[int], dtype: str, scale: float = 1.0) -> Tensor:
    tensor = (paddle.randn(list(shape)) * scale).astype(getattr(paddle, dtype))
    tensor.stop_gradient = False
    return tensor


def _compare(
    found: Finding, ours: Formula, theirs: Formula, inputs: Sequence[Tensor], limit: float, real: Any = None
) -> None:
    """The result of `ours` and its gradients of the inputs against `theirs` on float64 copies of them.

    real: which entries of the result count, as a tensor that broadcasts to it; None: all.
    """
    doubles = [one.detach().astype("float64") for one in inputs]
    for double, one in zip(doubles, inputs, strict=True):
        double.stop_gradient = one.stop_gradient
    with paddle.no_grad():
        inference = ours(*inputs)
    results = [ours(*inputs), theirs(*doubles)]
    weight = paddle.randn(results[1].shape, dtype="float64")
    if real is not None:
        weight = weight * real.astype("float64")
        inference, *results = (one * real.astype(one.dtype) for one in (inference, *results))
    found.measure("result", _error(results[0], results[1]), limit)
    found.measure("without gradients", _error(inference, results[1]), limit)
    wanted = [index for index, one in enumerate(inputs) if not one.stop_gradient]
    gradients = [
        paddle.grad(result, [sources[index] for index in wanted], weight.astype(result.dtype))
        for result, sources in zip(results, (inputs, doubles), strict=True)
    ]
    for index, mine, exact in zip(wanted, *gradients, strict=True):
        found.measure(f"gradient {index}", _error(mine, exact), limit)


def _error(ours: Tensor, theirs: Tensor) -> float:
    return relative_error(ours.astype("float32").numpy(), theirs.numpy())


def rms_norm(dtype: str, limit: float) -> Finding:
    found, layer = Finding(), RMSNorm(_HIDDEN, 1e-5, dtype)

    def ours(x: Tensor) -> Tensor:
        return layer(x)

    layer.weight.set_value(_random([_HIDDEN], dtype))
    weight = layer.weight.detach().astype("float64")

    def formula(x: Tensor) -> Any:
        return x * paddle.rsqrt(x.square().mean(axis=-1, keepdim=True) + 1e-5) * weight

    _compare(found, ours, formula, [_random([_ROWS, _HIDDEN], dtype, 3.0)], limit)
    x, residual = (_random([1, _ROWS, _HIDDEN], dtype).detach() for _ in range(2))
    with paddle.no_grad():
        total, normalised = layer.add(x, residual)
    found.measure("added", _error(total, x.astype("float64") + residual.astype("float64")), limit)
    found.measure("added and normalised", _error(normalised, formula(total.astype("float64"))), limit)
    return found


def layer_norm(dtype: str, limit: float) -> Finding:
    found, layer = Finding(), LayerNorm(_HIDDEN, 1e-5, dtype)
    for parameter in (layer.weight, layer.bias):
        parameter.set_value(_random([_HIDDEN], dtype))
    weight, bias = (one.detach().astype("float64") for one in (layer.weight, layer.bias))

    def formula(x: Tensor) -> Any:
        centred = x - x.mean(axis=-1, keepdim=True)
        return centred * paddle.rsqrt(centred.square().mean(axis=-1, keepdim=True) + 1e-5) * weight + bias

    _compare(found, lambda x: layer(x), formula, [_random([_ROWS, _HIDDEN], dtype, 3.0)], limit)
    return found


def gated_activation(dtype: str, limit: float) -> Finding:
    def formula(x: Tensor) -> Any:
        gate, up = x.chunk(2, axis=-1)
        return gate * F.sigmoid(gate) * up

    found = Finding()
    _compare(found, swiglu, formula, [_random([1, _ROWS, 2 * 13696], dtype)], limit)
    return found


def rotary(dtype: str, limit: float) -> Finding:
    """Adjacent pairs of half a head; then halves of two parts, each with its own position."""
    found, batch, tokens = Finding(), 2, 20
    x = _random([batch, _HEADS, tokens, _HEAD_DIM], dtype)
    angles = paddle.randn([batch, 1, tokens, 2, _HEAD_DIM // 4])
    cos, sin = (one.astype(x.dtype) for one in (paddle.cos(angles), paddle.sin(angles)))
    wide_cos, wide_sin = cos.astype("float64"), sin.astype("float64")

    def adjacent(x: Tensor) -> Tensor:
        turned, rest = x.chunk(2, axis=-1)
        even, odd = turned[..., 0::2], turned[..., 1::2]
        c, s = wide_cos[..., 0, :], wide_sin[..., 0, :]
        pairs = paddle.stack([even * c - odd * s, odd * c + even * s], axis=-1)
        return paddle.concat([pairs.flatten(-2), rest], axis=-1)

    def halves(x: Tensor) -> Tensor:
        parts = []
        for row, part in enumerate(x.chunk(2, axis=-1)):
            first, second = part.chunk(2, axis=-1)
            c, s = wide_cos[..., row, :], wide_sin[..., row, :]
            parts += [first * c - second * s, second * c + first * s]
        return paddle.concat(parts, axis=-1)

    one_row = cos[..., 0, :].contiguous(), sin[..., 0, :].contiguous()
    _compare(found, lambda x: apply_rotary_interleaved(x, *one_row), adjacent, [x], limit)
    _compare(found, lambda x: apply_rotary_halves(x, cos, sin), halves, [x], limit)
    return found


def _rows(kind: str) -> tuple[IntArray, int, Array | None]:
    """attention_mask [2, columns], tokens, and the context [2, tokens] or None."""
    mask = np.ones((2, _TOKENS), np.int64)
    context: Array | None = None
    if kind == "padded on the left":
        mask[1, :37] = 0
    elif kind == "packed, padded on the right":
        mask[0] = np.repeat([1, 2, 3], [200, 301, 139])
        mask[1, 500:] = 0
    elif kind == "two-way context":
        mask[1, :37] = 0
        context = (np.arange(_TOKENS) < 400)[None] & (mask > 0)
    elif kind == "behind a cache":
        mask = np.ones((2, _TOKENS + 300), np.int64)
        mask[1, :37] = 0
    return mask, _TOKENS, context


def attention(kind: str, dtype: str, limit: float) -> Finding:
    mask, tokens, context = _rows(kind)
    batch, columns = mask.shape
    kv_heads = _HEADS if context is not None else _KV_HEADS
    query = _random([batch, _HEADS, tokens, _HEAD_DIM], dtype)
    key, value = (_random([batch, kv_heads, columns, _HEAD_DIM], dtype) for _ in range(2))
    context_tensor = None if context is None else paddle.to_tensor(context)
    described = AttentionMask(paddle.to_tensor(mask), tokens, context_tensor)

    def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return grouped_query_attention(query, key, value, described, SINGLE_PROCESS)

    def formula(query: Tensor, key: Tensor, value: Tensor) -> Any:
        return _exact_attention(described, query, key, value)

    found = Finding()
    real = paddle.to_tensor(mask[:, columns - tokens :] > 0).unsqueeze(-1)
    _compare(found, ours, formula, [query, key, value], limit, real)
    return found


def decoding(dtype: str, limit: float) -> Finding:
    """A token per row behind a cache, twice: with few and many columns, of few and many rows."""
    found = Finding()
    for batch, past in ((2, 250), (2, 1500), (6, 1500)):
        shape = [batch, _KV_HEADS, past, _HEAD_DIM]
        keys, values = (_random(shape, dtype).detach() for _ in range(2))
        cache = DecodeLayer(keys, values)
        for step in (1, 2):
            query = _random([batch, _HEADS, 1, _HEAD_DIM], dtype).detach()
            key, value = (_random([batch, _KV_HEADS, 1, _HEAD_DIM], dtype).detach() for _ in range(2))
            keys, values = paddle.concat([keys, key], axis=2), paddle.concat([values, value], axis=2)
            ids = np.ones((batch, past + step), np.int64)
            ids[1, :37] = 0
            mask = AttentionMask(paddle.to_tensor(ids), 1)
            with paddle.no_grad():
                seen = mask.for_cache(KVCache([cache]))
                ours = attend(query, key, value, seen, cache, SINGLE_PROCESS)
            doubles = [one.astype("float64") for one in (query, keys, values)]
            error = _error(ours, _exact_attention(mask, *doubles))
            found.measure(f"{batch} rows, {past + step} columns", error, _half_sums(limit, dtype))
    return found


def paged_decoding(dtype: str, limit: float) -> Finding:
    """A token per row in pages, twice, at and over their edges."""
    found, pasts = Finding(), (250, 63, 1500)
    pool = PagePool(1, 40, _KV_HEADS, _HEAD_DIM, getattr(paddle, dtype))
    cache, held = PagedKVCache(pool), []
    for past in pasts:
        pair = [_random([1, _KV_HEADS, past, _HEAD_DIM], dtype).detach() for _ in range(2)]
        cache.add_rows(KVCache([DecodeLayer(pair[0], pair[1])]))
        held.append(pair)
    for step in (1, 2):
        query = _random([len(pasts), _HEADS, 1, _HEAD_DIM], dtype).detach()
        new = [_random([len(pasts), _KV_HEADS, 1, _HEAD_DIM], dtype).detach() for _ in range(2)]
        with paddle.no_grad():
            cache.begin_step(1)
            mask = AttentionMask(paddle.ones([len(pasts), 1], dtype="int64"), 1).for_cache(cache)
            ours = attend(query, new[0], new[1], mask, cache.layers[0], SINGLE_PROCESS)
        for row, past in enumerate(pasts):
            pairs = zip(held[row], new, strict=True)
            held[row] = [paddle.concat([one, more[row : row + 1]], axis=2) for one, more in pairs]
            doubles = [one.astype("float64") for one in (query[row : row + 1], *held[row])]
            exact = _exact_attention(AttentionMask(paddle.ones([1, past + step], "int64"), 1), *doubles)
            error = _error(ours[row : row + 1], exact)
            found.measure(f"{past + step} columns", error, _half_sums(limit, dtype))
    return found


def _half_sums(limit: float, dtype: str) -> float:
    """The limit of operators that add a thread's products in the operands' dtype on GPUs."""
    return limit if dtype == "float32" else 3 * limit


def _exact_attention(mask: AttentionMask, query: Tensor, key: Tensor, value: Tensor) -> Any:
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, axis=1) for one in (key, value))
    scores = paddle.matmul(query, key, transpose_y=True) / sqrt(_HEAD_DIM)
    weights = F.softmax(scores + mask.dense.astype("float64"), axis=-1)
    return paddle.matmul(weights, value).transpose([0, 2, 1, 3]).flatten(2)


def quantised_product(bits: int, dtype: str, limit: float) -> Finding:
    """The fused projection in inference, and while an adapter beside it is trained; of few and many rows."""
    quantization = QuantizationConfig(bits, default_group_size(bits, [_HIDDEN]) or None)
    sharding = column_parallel(Segment(4096, 32), Segment(256, 2), Segment(256, 2))
    layer = ColumnParallelLinear(_HIDDEN, sharding, SINGLE_PROCESS, WeightFormat(dtype, quantization))
    weight = np.random.RandomState(0).standard_normal((sharding.size, _HIDDEN)).astype(np.float32)
    values, scale = quantize(weight, bits, quantization.group_size)
    layer.weight.set_value(paddle.to_tensor(values))
    layer.weight_scale.set_value(paddle.to_tensor(scale))
    layer.eval()
    exact = paddle.to_tensor(dequantize(values, scale, bits)).astype("float64")
    found = Finding()
    for rows in (1, 3, _ROWS):
        x = _random([1, rows, _HIDDEN], dtype)
        inner = Finding()
        _compare(inner, lambda x: layer(x), lambda x: paddle.matmul(x, exact, transpose_y=True), [x], limit)
        for one in inner.measures:
            few = rows <= 3  # for which GPUs add up to 64 numbers in half precision
            found.measure(f"{one.name}, {rows} rows", one.value, _half_sums(limit, dtype) if few else limit)
    return found


def _with_dtype(function: Callable[[str, float], Finding], dtype: str, context: Context) -> Finding:
    check_half_precision(dtype)
    paddle.seed(0)
    with exact_products():
        return function(dtype, LIMITS[dtype])


_MASKS = ("causal", "padded on the left", "packed, padded on the right", "two-way context", "behind a cache")
_FUNCTIONS: dict[str, Callable[[str, float], Finding]] = {
    "RMSNorm": rms_norm,
    "LayerNorm": layer_norm,
    "SwiGLU": gated_activation,
    "rotary embedding": rotary,
    **{f"attention, {kind}": partial(attention, kind) for kind in _MASKS},
    "decoding": decoding,
    "decoding in pages": paged_decoding,
    "product with int8": partial(quantised_product, 8),
    "product with int4": partial(quantised_product, 4),
}
for _name, _function in _FUNCTIONS.items():
    for _dtype in LIMITS:
        check(
            "operators",
            f"{_name}, {_dtype}",
            devices=("cpu", "gpu") if _dtype == "float32" else ("gpu",),
            environment={"PADDLE_GLM_ARITHMETIC": "float32"},
        )(partial(_with_dtype, _function, _dtype))
