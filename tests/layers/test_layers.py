"""Parts of models against direct computations in numpy float64."""

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.layers.attention import grouped_query_attention
from paddle_glm.layers.attention_mask import AttentionMask, additive_mask, boolean_mask, causal_mask
from paddle_glm.layers.norm import LayerNorm
from paddle_glm.layers.rotary import apply_rotary_interleaved, rotary_cos_sin, rotary_table
from paddle_glm.parallel import SINGLE_PROCESS
from paddle_glm.parallel.layers import linear

SMALL = {
    "num_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "ffn_hidden_size": 48, "vocab_size": 50, "max_sequence_length": 3000,
}  # fmt: skip


def test_half_precision_positions_are_rounded_where_the_original_rounds_them() -> None:
    """float16 holds no odd integer above 2048: ChatGLM2 in half precision gives 2049 the place of 2048."""
    half, single = rotary_table(2100, 8, "float16"), rotary_table(2100, 8)
    np.testing.assert_array_equal(half[2049], half[2048])
    assert np.abs(single[2049] - single[2048]).max() > 0.1
    tables = {
        (family, dtype): AutoModel.from_config(
            ModelConfig(family=family, **SMALL), dtype
        ).rotary_table.numpy()
        for family in ("chatglm2", "chatglm3")
        for dtype in ("float32", "float16")
    }
    np.testing.assert_array_equal(tables["chatglm3", "float16"], tables["chatglm3", "float32"])
    np.testing.assert_array_equal(tables["chatglm2", "float32"], tables["chatglm3", "float32"])
    assert (tables["chatglm2", "float16"] != tables["chatglm2", "float32"]).any()


def test_rotary_turns_neighbouring_pairs_by_position_times_frequency() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 3, 5, 12)).astype("float32")
    positions = np.array([[0, 1, 2, 3, 4], [0, 0, 7, 8, 9]])
    cos, sin = rotary_cos_sin(
        paddle.to_tensor(rotary_table(10, 8)), paddle.to_tensor(positions), paddle.float32
    )
    ours = apply_rotary_interleaved(paddle.to_tensor(x), cos, sin).numpy()
    angle = positions[:, None, :, None] * (10000.0 ** (-np.arange(4) / 4))  # (batch, 1, tokens, 4)
    rotated = (x[..., 0:8:2] + 1j * x[..., 1:8:2]) * np.exp(1j * angle)
    expected = x.astype("float64")
    expected[..., 0:8:2], expected[..., 1:8:2] = rotated.real, rotated.imag
    assert np.abs(ours - expected).max() < 1e-6


@pytest.mark.parametrize("past", [0, 4])
def test_attention_is_causal_ignores_padding_and_shares_groups(past: int) -> None:
    generator = np.random.default_rng(1)
    batch, heads, groups, tokens, dim = 2, 6, 2, 5, 4
    total = past + tokens
    query = generator.standard_normal((batch, heads, tokens, dim)).astype("float32")
    key, value = generator.standard_normal((2, batch, groups, total, dim)).astype("float32")
    real = np.ones((batch, total), "int64")
    real[1, :2] = 0
    mask = AttentionMask(paddle.to_tensor(real), tokens)
    ours = grouped_query_attention(*map(paddle.to_tensor, (query, key, value)), mask, SINGLE_PROCESS).numpy()
    for row in range(batch):
        for head in range(heads):
            for token in range(tokens):
                seen = [k for k in range(past + token + 1) if real[row, k]]
                seen = seen or list(range(total))  # a query on padding attends to everything
                if past == 0 and not real[row, token]:
                    seen = list(range(total))
                group = head // (heads // groups)
                scores = key[row, group, seen].astype("float64") @ query[row, head, token] / np.sqrt(dim)
                weights = np.exp(scores - scores.max())
                expected = weights / weights.sum() @ value[row, group, seen]
                got = ours[row, token, head * dim : (head + 1) * dim]
                assert np.abs(got - expected).max() < 1e-6, (row, head, token)


def test_a_mask_given_as_bool_says_who_may_attend() -> None:
    allowed = paddle.to_tensor(np.tril(np.ones((1, 1, 3, 3), bool)))
    real = causal_mask(paddle.ones([1, 3], "int64"), 3)
    np.testing.assert_array_equal(additive_mask(allowed).numpy(), real.numpy())


def test_packed_samples_and_contexts() -> None:
    """Two samples in a row, each with a context of two tokens that is seen from before; then padding."""
    numbers = paddle.to_tensor([[1, 1, 1, 2, 2, 2, 0]])
    context = paddle.to_tensor([[True, True, False, True, True, False, False]])
    expected = [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    assert boolean_mask(numbers, 7, context)[0, 0].astype("int64").tolist() == expected
    causal = np.tril(expected)
    np.testing.assert_array_equal(boolean_mask(numbers, 7)[0, 0].astype("int64").numpy(), causal)
    last = boolean_mask(numbers[:, :6], 2, context[:, 4:6])[0, 0].astype("int64").tolist()
    assert last == [row[:6] for row in expected[4:6]]


def test_headroom_changes_no_weight() -> None:
    query, key, value = paddle.to_tensor(np.random.default_rng(2).standard_normal((3, 1, 2, 4, 8)), "float32")
    mask = AttentionMask(paddle.ones([1, 4], "int64"), 4)
    plain = grouped_query_attention(query, key, value, mask, SINGLE_PROCESS)
    small = grouped_query_attention(query, key, value, mask, SINGLE_PROCESS, qk_layer_scaling=28.0)
    assert float((plain - small).abs().max()) < 1e-6


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_norm_passes_the_same_gradient_on(frozen: bool) -> None:
    generator = np.random.default_rng(0)
    x, upstream = generator.standard_normal((2, 3, 16)), generator.standard_normal((2, 3, 16))
    weight, bias = generator.uniform(0.5, 1.5, 16), generator.standard_normal(16)
    norm = LayerNorm(16, 1e-5, "float32")
    norm.weight.set_value(weight.astype("float32"))
    norm.bias.set_value(bias.astype("float32"))
    norm.weight.stop_gradient = norm.bias.stop_gradient = frozen
    ours = paddle.to_tensor(x.astype("float32"), stop_gradient=False)
    (norm(ours) * paddle.to_tensor(upstream.astype("float32"))).sum().backward()
    scale = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normal, inner = (x - x.mean(-1, keepdims=True)) * scale, upstream * weight
    along = (inner * normal).mean(-1, keepdims=True)
    expected = scale * (inner - inner.mean(-1, keepdims=True) - normal * along)
    np.testing.assert_allclose(ours.grad.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_weights_are_widened_some_rows_at_a_time(dtype: str) -> None:
    """700 rows of 1024 are more than become floats at once, and no multiple of that."""
    weight, x = paddle.randn([700, 1024]).astype(dtype), paddle.randn([3, 1024])
    whole = paddle.matmul(x, weight.astype("float32"), transpose_y=True)
    with paddle.no_grad():
        in_blocks = linear(x, weight)
    np.testing.assert_allclose(in_blocks.numpy(), whole.numpy(), rtol=0, atol=1e-5 * float(whole.abs().max()))
