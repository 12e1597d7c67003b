"""Attention by blocks of queries against that of all scores at once, forward and backward."""

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
import pytest
from paddle import Tensor

from paddle_glm.layers import blockwise_attention as module
from paddle_glm.layers.attention import grouped_query_attention
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.blockwise_attention import blockwise_attention
from paddle_glm.parallel import SINGLE_PROCESS
from tests.fused_operators import use_fused_operators

TOKENS = 20
PACKED = [[1] * 5 + [2] * 8 + [3] * 4 + [0] * 3, [1] * 20]
CONTEXT = [[1] * 3 + [0] * 2 + [1] * 4 + [0] * 11, [1] * 9 + [0] * 11]
CASES: dict[str, tuple[list[list[int]], int, list[list[int]] | None, int, int]] = {
    # attention_mask, number of queries, context, columns of a prefix, unused columns
    "causal": ([[1] * 20] * 2, 20, None, 0, 0),
    "padding on both sides": ([[0] * 7 + [1] * 13, [1] * 12 + [0] * 8], 20, None, 0, 0),
    "past": ([[0] * 7 + [1] * 13, [1] * 20], 5, None, 0, 0),
    "prefix and unused columns": ([[0] * 7 + [1] * 13, [1] * 20], 20, None, 3, 2),
    "packed": (PACKED, 20, None, 0, 0),
    "packed with past": (PACKED, 9, None, 0, 4),
    "context": ([[0] * 4 + [1] * 16, [1] * 20], 20, CONTEXT, 2, 0),
    "packed with context": (PACKED, 20, CONTEXT, 0, 0),
}


def mask_of(case: str) -> tuple[AttentionMask, np.ndarray]:
    """The mask, and the weight 1 of queries on tokens and 0 of those on padding: [batch, queries, 1]."""
    numbers, tokens, context, prefix, unused = CASES[case]
    told = None if context is None else paddle.to_tensor(np.array(context, bool)[:, -tokens:])
    mask = AttentionMask(paddle.to_tensor(numbers), tokens, told, prefix, unused)
    return mask, (np.array(numbers)[:, -tokens:, None] > 0).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_the_rows_that_see_a_column_are_those_of_the_dense_mask(case: str) -> None:
    mask, weight = mask_of(case)
    for first, end in (mask.square, mask.visible_rows):
        assert first.dtype == end.dtype == paddle.int32
        assert first.shape == end.shape == [2, mask.columns]
    first, end = (one.numpy()[:, None] for one in mask.visible_rows)
    rows = np.arange(mask.tokens)[:, None]
    seen = (rows >= first) & (rows < end)
    real = weight[:, :, 0] > 0
    np.testing.assert_array_equal(seen[real], (mask.dense.numpy()[:, 0] == 0)[real])
    assert seen.any(axis=2).all()  # no softmax of nothing, whatever computes it
    numbers = np.pad(mask.attention_mask.numpy(), ((0, 0), (mask.prefix, mask.unused)), constant_values=1)
    for row in range(2):  # nobody reads a padding column but padding
        assert not seen[row][real[row]][:, numbers[row] == 0].any()


def tensors(heads: int, groups: int, mask: AttentionMask, size: int = 4) -> list[Tensor]:
    generator = np.random.default_rng(0)
    columns = mask.dense.shape[3]
    shapes = ([2, heads, mask.tokens, size], [2, groups, columns, size], [2, groups, columns, size])
    made = [paddle.to_tensor(generator.standard_normal(shape), "float32") for shape in shapes]
    for one in made:
        one.stop_gradient = False
    return made


def results(attend: Callable[..., Tensor], operands: list[Tensor], weight: np.ndarray) -> list[np.ndarray]:
    """The output where it is read, and the gradients of the operands."""
    output = attend(*operands) * paddle.to_tensor(weight)
    upstream = paddle.to_tensor(np.random.default_rng(1).standard_normal(output.shape), "float32")
    return [one.numpy() for one in (output, *paddle.grad((output * upstream).sum(), operands))]


@pytest.mark.parametrize("views", [True, False])
@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (2, 2)])
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients(
    case: str, heads: int, groups: int, views: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paddle.set_flags({"FLAGS_use_stride_kernel": views})
    monkeypatch.setattr(module, "MIN_QUERIES", 3)
    mask, weight = mask_of(case)
    operands = tensors(heads, groups, mask)
    query, *pair = operands
    dense = results(
        lambda q, k, v: grouped_query_attention(q, k, v, mask, SINGLE_PROCESS, qk_layer_scaling=2.0),
        [query, *pair],
        weight,
    )
    ours = results(lambda q, k, v: blockwise_attention(q / 4, k, v, mask, 0.0, 2.0), operands, weight)
    for got, expected in zip(ours, dense, strict=True):
        assert np.abs(got - expected).max() < 3e-6


@pytest.mark.parametrize("case", CASES)
def test_fused_output_and_gradients(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mask, weight = mask_of(case)
    operands = tensors(6, 2, mask, size=8)
    attend = partial(grouped_query_attention, mask=mask, group=SINGLE_PROCESS, qk_layer_scaling=2.0)
    dense = results(attend, operands, weight)
    calls = use_fused_operators(monkeypatch)
    for got, expected in zip(results(attend, operands, weight), dense, strict=True):
        assert np.abs(got - expected).max() < 3e-6
    assert calls.counts == {"attention": 1}


def test_a_mask_of_pairs() -> None:
    allowed = np.tril(np.ones((1, 1, TOKENS, TOKENS), bool), 3)
    mask = AttentionMask(paddle.to_tensor(allowed), TOKENS)
    query, key, value = tensors(2, 1, mask)
    ours = blockwise_attention(query / 2, key, value, mask)
    dense = grouped_query_attention(query, key, value, mask, SINGLE_PROCESS)
    assert float((ours - dense).abs().max()) < 1e-6


@pytest.mark.usefixtures("blockwise")
def test_dropout_is_that_of_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is linear in the values: its product with their gradients is the output's sum again."""
    mask, _ = mask_of("packed")
    operands = tensors(2, 2, mask)
    paddle.seed(0)
    output = grouped_query_attention(*operands, mask, SINGLE_PROCESS, dropout=0.5)
    upstream = paddle.randn(output.shape)
    state = paddle.get_rng_state()
    (output * upstream).sum().backward()
    before = paddle.rand([1])
    paddle.set_rng_state(state)
    assert float(before) == float(paddle.rand([1]))  # the backward pass takes no random numbers
    expected = float((output * upstream).sum())
    assert abs(float((operands[2].grad * operands[2]).sum()) - expected) < 1e-4 * abs(expected)
    paddle.seed(0)
    again = grouped_query_attention(*operands, mask, SINGLE_PROCESS, dropout=0.5)
    np.testing.assert_array_equal(again.numpy(), output.numpy())
    plain = grouped_query_attention(*operands, mask, SINGLE_PROCESS)
    assert float((plain - output).abs().max()) > 0.1


def test_nothing_held_grows_with_the_square_of_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest product of either pass, and what is saved between them."""
    monkeypatch.setattr(module, "BLOCK_SCORES", 2**12)
    sizes: list[int] = []
    matmul = paddle.matmul

    def measured(*operands: Tensor, **options: bool) -> Tensor:
        result = matmul(*operands, **options)
        sizes.append(result.size)
        return result

    monkeypatch.setattr(paddle, "matmul", measured)

    def saving(saved: list[int], one: Tensor) -> Tensor:
        saved.append(one.size)
        return one

    largest = {}
    for tokens in (128, 512):
        mask = AttentionMask(paddle.ones([1, tokens], "int64"), tokens)
        query, key, value = (paddle.randn([1, 1, tokens, 4]) for _ in range(3))
        query.stop_gradient = False
        saved: list[int] = []
        with paddle.autograd.saved_tensors_hooks(partial(saving, saved), lambda one: one):
            output = blockwise_attention(query, key, value, mask)
        output.sum().backward()
        assert sum(saved) == 3 * tokens * 4
        largest[tokens] = max(sizes)
        sizes.clear()
    assert largest[512] <= 4 * largest[128]


def test_other_packed_samples_are_not_read() -> None:
    mask = AttentionMask(paddle.to_tensor([[1] * 40 + [2] * 40 + [0] * 20]), 100)
    assert mask.visible_columns(0, 10, 20) == (0, 20)
    assert mask.visible_columns(0, 50, 60) == (40, 60)
    assert mask.visible_columns(0, 80, 100) == (0, 1)  # padding: any column will do
