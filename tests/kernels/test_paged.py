"""Operators of a cache in pages, against those of a dense cache and float64."""

import math

import numpy as np
import paddle
import pytest
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.kernels import operators
from paddle_glm.kernels.library import kernel_library
from paddle_glm.kernels.operators import CacheBuffers, CachePages
from tests.kernels.test_attention import TOLERANCE, attention_float64, causal, random
from tests.kernels.test_block import weight

pytestmark = [
    pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"),
    pytest.mark.usefixtures("forced_isa"),
]
PAGE = 64
LENGTHS = (0, 63, 64, 700, 1, 130)  # columns of each row before the step: ragged, at and around ends of pages


def make_pages(
    lengths: tuple[int, ...], tokens: int, kv_heads: int, head_dim: int, seed: int = 0
) -> tuple[CachePages, list[tuple[Array, Array]]]:
    """Pages in a random order with random columns, NaN where nothing is in use, and each row's columns in use
    as [kv heads, columns, head_dim]."""
    counts = [-(-(length + tokens) // PAGE) for length in lengths]
    order = np.random.default_rng(seed).permutation(sum(counts) + 2)
    pools = [np.full((len(order), kv_heads, PAGE, head_dim), np.nan, np.float32) for _ in range(2)]
    table, dense = np.full((len(lengths), max(counts) + 1), -7, np.int64), []
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        table[row, :count], order = order[:count], order[count:]
        rows = []
        for number, pool in enumerate(pools):
            one = random(kv_heads, count * PAGE, head_dim, seed=seed + 2 * row + number).numpy()
            one[:, length:] = np.nan
            pool[table[row, :count]] = one.reshape(kv_heads, count, PAGE, head_dim).swapaxes(0, 1)
            rows.append(one[:, : length + tokens])
        dense.append((rows[0], rows[1]))
    return CachePages(*map(paddle.to_tensor, (*pools, table, np.array(lengths, np.int64)))), dense


def row_columns(pages: CachePages, row: int, tokens: int) -> list[Array]:
    """A row's keys and values, [kv heads, columns, head_dim], those of the step included."""
    table, found = pages.table.numpy()[row], []
    columns = int(pages.past[row]) + tokens
    for pool in (pages.keys.numpy(), pages.values.numpy()):
        one = pool[table[: -(-columns // PAGE)]].swapaxes(0, 1)
        found.append(one.reshape(one.shape[0], -1, one.shape[3])[:, :columns])
    return found


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (16, 1)])
@pytest.mark.parametrize("tokens", [1, 3, 70])
@pytest.mark.parametrize("head_dim", [128, 20])
def test_against_float64(heads: int, kv_heads: int, tokens: int, head_dim: int) -> None:
    pages, dense = make_pages(LENGTHS, tokens, kv_heads, head_dim)
    key, value = (random(len(LENGTHS), kv_heads, tokens, head_dim, seed=seed) for seed in (8, 9))
    operators.paged_append_cache(key, value, pages)
    query = random(len(LENGTHS), heads, tokens, head_dim, seed=7)
    output = operators.paged_cached_attention(query, pages, 1 / math.sqrt(head_dim), "float32").numpy()
    rounded = operators.paged_cached_attention(query, pages, 1 / math.sqrt(head_dim), "int8").numpy()
    for row, (length, before) in enumerate(zip(LENGTHS, dense, strict=True)):
        for old, new, found in zip(before, (key, value), row_columns(pages, row, tokens), strict=True):
            old[:, length:] = new.numpy()[row]
            np.testing.assert_array_equal(found, old)
        operands = (paddle.to_tensor(one[None]) for one in before)
        expected = attention_float64(
            query[row : row + 1], *operands, causal(tokens, length), length + tokens
        )[0]
        assert np.abs(output[row] - expected).max() < TOLERANCE
        assert np.sqrt(np.square(rounded[row] - expected).mean()) < 0.005 * expected.std()


@pytest.mark.parametrize("arithmetic", ["float32", "int8"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_a_row_alone_has_the_same_bits(tokens: int, arithmetic: str) -> None:
    pages, _ = make_pages(LENGTHS, tokens, 2, 32)
    key, value = random(6, 2, tokens, 32), random(6, 2, tokens, 32, seed=1)
    operators.paged_append_cache(key, value, pages)
    query = random(6, 8, tokens, 32, seed=2)
    together = operators.paged_cached_attention(query, pages, 0.2, arithmetic).numpy()
    for row in range(6):
        alone = pages._replace(table=pages.table[row : row + 1], past=pages.past[row : row + 1])
        output = operators.paged_cached_attention(query[row : row + 1], alone, 0.2, arithmetic).numpy()
        np.testing.assert_array_equal(output[0], together[row])


@pytest.mark.parametrize("tokens", [1, 66])
@pytest.mark.parametrize("kind", ["int4", "float16"])
def test_block_and_rotary_as_on_a_dense_cache(kind: str, tokens: int) -> None:
    """Of rows of one length, where nothing is divided between threads: the same bits."""
    batch, heads, kv_heads, head_dim, past = 3, 4, 2, 16, 100
    pages, dense = make_pages((past,) * batch, tokens, kv_heads, head_dim)
    buffers = [paddle.to_tensor(np.stack(one)) for one in zip(*dense, strict=True)]
    channels = (heads + 2 * kv_heads) * head_dim
    qkv, out = weight(kind, channels, 96), weight(kind, 96, heads * head_dim)
    rotary = random(batch, 1, tokens, 4), random(batch, 1, tokens, 4, seed=1)
    mask = paddle.to_tensor(causal(tokens, past))
    x, norm, bias, column = random(batch, tokens, 96), random(96), random(channels), paddle.to_tensor([past])
    for add_input in (True, False):
        expected, output = (
            operators.attention_block(x, (norm, 1e-5), qkv, bias, rotary, cache, out, heads, add_input)
            for cache in (CacheBuffers(*buffers, mask, column), pages)
        )
        np.testing.assert_array_equal(output.numpy(), expected.numpy())
    fused = random(batch, tokens, channels)
    expected = operators.append_rotary(fused, *rotary, *buffers, column, heads, kv_heads)
    query = operators.paged_append_rotary(fused, *rotary, pages, heads, kv_heads)
    np.testing.assert_array_equal(query.numpy(), expected.numpy())
    for row in range(batch):
        for found, buffer in zip(row_columns(pages, row, tokens), buffers, strict=True):
            np.testing.assert_array_equal(found, buffer.numpy()[row])


def test_wrong_operands_are_refused() -> None:
    pages, _ = make_pages((70, 3), 1, 2, 8)
    new = random(2, 2, 1, 8)

    def refused(match: str, **changed: Tensor) -> None:
        with pytest.raises(Exception, match=match):
            operators.paged_append_cache(new, new, pages._replace(**changed))

    refused("row 0 has 192 columns: no room for 1 after 192", past=paddle.to_tensor([192, 3]))
    refused("row 1 has 192 columns: no room for 1 after -1", past=paddle.to_tensor([70, -1]))
    refused("page -7 of row 1: there are 5", past=paddle.to_tensor([70, 64]))
    refused(r"past must be int64 \[2\]", past=paddle.to_tensor([70]))
    refused("table must be int64", table=pages.table.astype("int32"))
    refused(
        "pages of 32 columns: expected 64",
        keys=pages.keys[:, :, :32].clone(),
        values=pages.values[:, :, :32].clone(),
    )
    refused("must be contiguous", keys=pages.keys.transpose([0, 1, 3, 2]))
    with pytest.raises(Exception, match="key must have 4 axes, not 3"):
        operators.paged_append_cache(new[0], new[0], pages)
