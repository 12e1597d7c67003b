"""Attention over a cache that is written in place, against float64 and the layer that it replaces."""

import math
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import Tensor, inference

from paddle_glm.array_types import Array
from paddle_glm.kernels import operators
from paddle_glm.kernels.library import kernel_library
from paddle_glm.layers.attention import grouped_query_attention
from paddle_glm.layers.attention_mask import MASK_VALUE, AttentionMask
from paddle_glm.parallel import SINGLE_PROCESS

pytestmark = [
    pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"),
    pytest.mark.usefixtures("forced_isa"),
]


TOLERANCE = 5e-6  # of a float32 sum and of exp of a float32 score


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape) * scale
    return paddle.to_tensor(values.astype(np.float32))


def attention_float64(query: Tensor, key: Tensor, value: Tensor, mask: Array, columns: int) -> Array:
    """[batch, tokens, heads * head_dim]; mask: [batch or 1, 1, tokens, columns or more]."""
    q, k, v = (one.numpy().astype(np.float64) for one in (query, key, value))
    batch, heads, tokens, head_dim = q.shape
    k, v = (np.repeat(one[:, :, :columns], heads // one.shape[1], axis=1) for one in (k, v))
    scores = q @ k.swapaxes(2, 3) / math.sqrt(head_dim) + mask[..., :columns]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, heads * head_dim)


def causal(tokens: int, past: int, spare: int = 0) -> Array:
    columns = np.arange(past + tokens + spare)
    visible = columns[None] <= past + np.arange(tokens)[:, None]
    return np.where(visible, 0.0, MASK_VALUE).astype(np.float32)[None, None]


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Array, past: int, arithmetic: str = "float32"
) -> Array:
    scale = 1.0 / math.sqrt(query.shape[3])
    output = operators.cached_attention(
        query, key, value, paddle.to_tensor(mask), paddle.to_tensor([past]), scale, arithmetic
    )
    return np.asarray(output.numpy())


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (16, 1), (32, 2)])
@pytest.mark.parametrize(
    ("tokens", "past", "spare"),
    [(1, 0, 0), (1, 31, 1), (1, 300, 20), (2, 64, 0), (7, 5, 0), (64, 0, 0), (65, 63, 9), (150, 0, 3)],
)
@pytest.mark.parametrize("head_dim", [16, 128])
def test_against_float64(
    heads: int, kv_heads: int, tokens: int, past: int, spare: int, head_dim: int
) -> None:
    query = random(2, heads, tokens, head_dim)
    shape = (2, kv_heads, past + tokens + spare, head_dim)
    key, value = random(*shape, scale=2.0), random(*shape, seed=1)
    # Columns behind those in use may hold anything.
    key[:, :, past + tokens :] = value[:, :, past + tokens :] = math.nan
    mask = causal(tokens, past, spare)
    expected = attention_float64(query, key, value, mask, past + tokens)
    assert np.abs(attend(query, key, value, mask, past) - expected).max() < TOLERANCE


@pytest.mark.parametrize("head_dim", [1, 10, 24, 80, 144])
def test_head_sizes(head_dim: int) -> None:
    query, key, value = (random(1, 2, 70, head_dim, seed=seed) for seed in range(3))
    expected = attention_float64(query, key, value, causal(70, 0), 70)
    assert np.abs(attend(query, key, value, causal(70, 0), 0) - expected).max() < TOLERANCE


@pytest.mark.parametrize("tokens", [1, 90])
def test_long_context(tokens: int) -> None:
    past = 3000
    query, key, value = random(1, 4, tokens, 64), random(1, 2, 3200, 64), random(1, 2, 3200, 64, seed=1)
    mask = causal(tokens, past, 110)
    expected = attention_float64(query, key, value, mask, past + tokens)
    assert np.abs(attend(query, key, value, mask, past) - expected).max() < TOLERANCE


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_columns_divided_between_threads(tokens: int, threads: int) -> None:
    paddle.base.core.set_num_threads(threads)
    past = 1600
    query, key, value = (
        random(1, 4, tokens, 32, scale=3.0),
        random(1, 1, 1700, 32),
        random(1, 1, 1700, 32, seed=1),
    )
    mask = causal(tokens, past)
    mask[..., :700] = MASK_VALUE  # the first parts see nothing
    expected = attention_float64(query, key, value, mask, past + tokens)
    assert np.abs(attend(query, key, value, mask, past) - expected).max() < TOLERANCE


@pytest.mark.parametrize("arithmetic", ["bfloat16", "int8"])
@pytest.mark.parametrize(
    ("tokens", "past", "head_dim"), [(1, 0, 16), (1, 400, 128), (75, 5, 128), (9, 0, 33)]
)
def test_rounded_arithmetic(arithmetic: str, tokens: int, past: int, head_dim: int) -> None:
    query = random(2, 4, tokens, head_dim)
    key, value = random(2, 2, past + tokens, head_dim), random(2, 2, past + tokens, head_dim, seed=1)
    mask = causal(tokens, past)
    expected = attention_float64(query, key, value, mask, past + tokens)
    errors = attend(query, key, value, mask, past, arithmetic) - expected
    assert math.sqrt(np.square(errors).mean()) < 0.005 * math.sqrt(np.square(expected).mean())


@pytest.mark.parametrize("tokens", [1, 40])
def test_large_scores(tokens: int) -> None:
    """Scores of several hundred: one column has all the weight."""
    query, key, value = (random(1, 2, 200, 32, scale=12.0, seed=seed) for seed in range(3))
    query, mask = query[:, :, :tokens], causal(tokens, 200 - tokens)
    expected = attention_float64(query, key, value, mask, 200)
    assert np.abs(attend(query, key, value, mask, 200 - tokens) - expected).max() < 1e-3


@pytest.mark.parametrize(("tokens", "past"), [(150, 0), (20, 130), (1, 149)])
@pytest.mark.parametrize("prefix", [0, 3])
def test_padding_and_prefix_as_the_layer(tokens: int, past: int, prefix: int) -> None:
    """Left padding of several rows, longer than a block of columns, and a prefix before it."""
    total = tokens + past
    attention_mask = np.ones((3, total), np.int64)
    attention_mask[1, :70] = attention_mask[2, :149] = 0
    mask = AttentionMask(paddle.to_tensor(attention_mask), tokens, prefix=prefix)
    query = random(3, 4, tokens, 32)
    key, value = random(3, 2, total + prefix, 32), random(3, 2, total + prefix, 32, seed=1)
    expected = grouped_query_attention(query, key, value, mask, SINGLE_PROCESS)
    output = attend(query, key, value, mask.dense.numpy(), past + prefix)
    assert np.abs(output - expected.numpy()).max() < TOLERANCE


@pytest.mark.parametrize("tokens", [1, 80])
def test_a_row_without_visible_columns_averages_values(tokens: int) -> None:
    query, key, value = random(1, 2, tokens, 16), random(1, 1, 100, 16), random(1, 1, 100, 16, seed=1)
    mask = np.full((1, 1, tokens, 100), MASK_VALUE, np.float32)
    output = attend(query, key, value, mask, 100 - tokens).reshape(tokens, 2, 16)
    np.testing.assert_allclose(
        output, np.broadcast_to(value.numpy().mean((0, 1, 2)), output.shape), atol=1e-6
    )


def test_infinite_mask() -> None:
    query, key, value = (random(1, 2, 80, 16, seed=seed) for seed in range(3))
    mask = np.where(causal(80, 0) < 0, -np.inf, 0).astype(np.float32)
    expected = attention_float64(query, key, value, mask, 80)
    assert np.abs(attend(query, key, value, mask, 0) - expected).max() < TOLERANCE


def test_nan_stays_visible() -> None:
    query, key, value = (random(1, 2, 80, 16, seed=seed) for seed in range(3))
    key[:, 1, 5] = math.nan
    output = attend(query, key, value, causal(80, 0), 0).reshape(80, 2, 16)
    assert np.isnan(output[5:, 1]).all()
    assert np.isfinite(output[:, 0]).all()


def test_wrong_operands_are_refused() -> None:
    query, key = random(1, 2, 3, 16), random(1, 1, 8, 16)
    for past in (-1, 6):
        with pytest.raises(Exception, match=f"the cache has 8 columns: no room for 3 after {past}"):
            attend(query, key, key, causal(3, 6), past)
    with pytest.raises(Exception, match=r"mask must be \[1 or 1, 1, 3, at least 5\]"):
        attend(query, key, key, causal(3, 1), 2)
    with pytest.raises(Exception, match="query must be"):
        attend(random(1, 2, 3, 8), key, key, causal(3, 0), 0)


class _Step(paddle.nn.Layer):
    """A layer's attention, as in an exported graph."""

    def forward(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, key: Tensor, value: Tensor, past: Tensor, mask: Tensor
    ) -> Tensor:
        query = operators.append_rotary(qkv, cos, sin, key, value, past, 4, 2)
        return operators.cached_attention(query, key, value, mask, past, 0.25)


def test_predictor_writes_the_cache_in_place(tmp_path: Path) -> None:
    shapes = ([-1, -1, 128], *([-1, 1, -1, 4],) * 2, *([-1, 2, -1, 16],) * 2, [1], [-1, 1, -1, -1])
    specs = [
        paddle.static.InputSpec(shape, "int64" if shape == [1] else "float32", f"input_{index}")
        for index, shape in enumerate(shapes)
    ]
    step = _Step()
    with paddle.no_grad():
        paddle.jit.save(paddle.jit.to_static(step, input_spec=specs, full_graph=True), str(tmp_path / "step"))
    config = inference.Config(str(tmp_path / "step.json"), str(tmp_path / "step.pdiparams"))
    config.disable_glog_info()
    config.disable_mkldnn()
    predictor = inference.create_predictor(config)

    buffers = [paddle.zeros([2, 2, 12, 16]) for _ in range(2)]
    expected_buffers = [paddle.zeros([2, 2, 12, 16]) for _ in range(2)]
    past = 0
    for tokens in (5, 1, 1, 3):
        qkv, cos, sin = random(2, tokens, 128), random(2, 1, tokens, 4), random(2, 1, tokens, 4, seed=1)
        mask = paddle.to_tensor(np.repeat(causal(tokens, past, 12 - past - tokens), 2, axis=0))
        inputs = [qkv, cos, sin, *buffers, paddle.to_tensor([past]), mask]
        for name, tensor in zip(predictor.get_input_names(), inputs, strict=True):
            predictor.get_input_handle(name).share_external_data(tensor)
        predictor.run()
        output = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        with paddle.no_grad():
            expected = step(qkv, cos, sin, *expected_buffers, paddle.to_tensor([past]), mask)
        np.testing.assert_array_equal(output, expected.numpy())
        for buffer, expected_buffer in zip(buffers, expected_buffers, strict=True):
            np.testing.assert_array_equal(buffer.numpy(), expected_buffer.numpy())
            assert buffer[:, :, past : past + tokens].any()
        past += tokens
