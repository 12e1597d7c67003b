"""Rows in pages against rows in dense caches: what they hold, and what a model computes with them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.auto.model import AutoModel
from paddle_glm.doctor.tiny_models import model_folder, tiny_config
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.page_pool import PAGE_TOKENS, PagePool
from paddle_glm.kv_cache.pages import PagedKVCache
from paddle_glm.kv_cache.tensors import BufferLayer
from paddle_glm.layers import attention
from paddle_glm.load_memory import InsufficientMemoryError
from paddle_glm.models.base import CausalLM
from paddle_glm.models.chatglm2 import modeling
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from tests.reading import add_rows

LAYERS, HEADS, SIZE, PREFIX = 2, 2, 4, 3

OPERATION = st.one_of(
    st.tuples(st.just("add"), st.lists(st.integers(1, 150), min_size=1, max_size=3)),
    st.tuples(st.just("step"), st.just([1] * 9)),
    st.tuples(st.just("step"), st.lists(st.integers(1, 3), min_size=1, max_size=1)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 9), max_size=5)),
    st.tuples(st.just("keep"), st.lists(st.integers(0, 9), min_size=1, max_size=1)),
    st.tuples(st.just("continue"), st.lists(st.integers(0, 150), min_size=2, max_size=2)),
    st.tuples(st.just("release"), st.lists(st.integers(0, 9), min_size=1, max_size=1)),
)


def random(numbers: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Keys and values of each layer, [2 * layers, rows, heads, columns, size]."""
    return numbers.standard_normal((2 * LAYERS, rows, HEADS, columns, SIZE), np.float32)


def dense(arrays: np.ndarray) -> KVCache:
    tensors = [paddle.to_tensor(array) for array in arrays]
    return KVCache([BufferLayer(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)], PREFIX)


def add(cache: PagedKVCache, rows: list[np.ndarray], lengths: list[int], numbers: Any) -> None:
    """Rows of a prefix and so many columns, padded on the left."""
    width = max(lengths)
    arrays = random(numbers, len(lengths), PREFIX + width)
    padding = width - np.array(lengths)
    cache.add_rows(dense(arrays), padding)
    for row, skipped in enumerate(padding):
        rows.append(np.delete(arrays[:, row], slice(PREFIX, PREFIX + skipped), axis=2))


def step(cache: PagedKVCache, rows: list[np.ndarray], tokens: int, numbers: np.random.Generator) -> None:
    new = random(numbers, len(rows), tokens)
    cache.begin_step(tokens)
    for layer, (key, value) in zip(cache.layers, zip(new[::2], new[1::2], strict=True), strict=True):
        seen = layer.update(paddle.to_tensor(key), paddle.to_tensor(value))
        assert all(bool(paddle.isfinite(one).all()) for one in seen)
    rows[:] = [np.concatenate([row, new[:, index]], axis=2) for index, row in enumerate(rows)]


@settings(max_examples=40, deadline=None)
@given(operations=st.lists(OPERATION, max_size=12))
def test_rows_keep_what_they_were_given(operations: list[tuple[str, list[int]]]) -> None:
    numbers, pool = np.random.default_rng(0), PagePool(LAYERS, 24, HEADS, SIZE, paddle.float32)
    for tensor in (one for pair in pool.layers for one in pair):
        tensor[1:] = float("nan")  # as memory may be that was never written
    cache, rows = PagedKVCache(pool), list[np.ndarray]()
    kept: list[tuple[np.ndarray, Any]] = []
    for name, numbers_given in operations:
        before, free = [row.copy() for row in rows], pool.free
        try:
            if name == "add":
                add(cache, rows, numbers_given, numbers)
            elif name == "step" and rows:
                for tokens in numbers_given:
                    step(cache, rows, tokens, numbers)
            elif name == "select" and rows:
                order = [row % len(rows) for row in numbers_given]
                cache.select(np.array(order, dtype=np.int64))
                rows[:] = [rows[row] for row in order]
            elif name == "keep" and rows:
                row = numbers_given[0] % len(rows)
                kept.append((rows[row], cache.keep_row(row, 0)))
            elif name == "continue" and kept:
                array, columns = kept[numbers_given[0] % len(kept)]
                begin = columns.share(array.shape[2])
                array = np.concatenate([array, random(numbers, 1, numbers_given[1] + 1)[:, 0]], axis=2)
                cache.add_rows(dense(array[:, None]), begin=begin)
                rows.append(array)
                begin.release()
            elif name == "release" and kept:
                kept.pop(numbers_given[0] % len(kept))[1].release()
        except IndexError:
            if name == "add":
                assert pool.free == free and len(rows) == len(before)
        held = [cache.keep_row(row, 0) for row in range(len(rows))]
        for array, columns in [*zip(rows, held, strict=True), *kept]:
            stop = array.shape[2] // 2 + 1
            for expected, tensor in zip(array, columns.first(stop), strict=True):
                np.testing.assert_array_equal(tensor.numpy()[0], expected[:, :stop])
            for expected, tensor in zip(array, columns.first(array.shape[2]), strict=True):
                np.testing.assert_array_equal(tensor.numpy()[0], expected)
        for columns in held:
            columns.release()
        assert cache.length == max((row.shape[2] for row in rows), default=0)
        assert pool.free + cache.own_pages <= pool.size
    cache.release()
    for _, columns in kept[::2]:
        columns.release()
        columns.release()
    columns = None
    kept.clear()
    assert pool.free == pool.size


def test_a_full_pool_leaves_all_rows_as_they_are() -> None:
    numbers, pool = np.random.default_rng(0), PagePool(LAYERS, 2, HEADS, SIZE, paddle.float32)
    cache, rows = PagedKVCache(pool), list[np.ndarray]()
    add(cache, rows, [PAGE_TOKENS - PREFIX, 5], numbers)
    for _ in range(2):
        assert cache.missing_pages(1) == 1
        with pytest.raises(IndexError, match="1 pages are needed and 0 are free"):
            cache.begin_step(1)
        with pytest.raises(IndexError):
            add(cache, list[np.ndarray](), [1], numbers)
    assert (cache.length, pool.free, cache.own_pages) == (PAGE_TOKENS, 0, 2)
    cache.select(np.array([1]))
    step(cache, rows[1:], 1, numbers)
    assert (cache.length, pool.free, cache.nbytes) == (PREFIX + 6, 1, pool.nbytes_per_page)


def _with_lora(model: CausalLM) -> CausalLM:
    attach_lora(model, LoraConfig(rank=4, target_modules=("query_key_value", "dense_4h_to_h")))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.set_value(0.05 * paddle.randn(parameter.shape))
    model.eval()
    return model


def _with_prefix(model: CausalLM) -> CausalLM:
    attach_prefix(model, 5, projection=False)
    model.eval()
    return model


def _made(family: str, folder: Path, **changes: object) -> CausalLM:
    if changes:
        return AutoModel.from_config(replace(tiny_config(family), **changes), seed=3)
    return AutoModel.from_pretrained(model_folder(folder, family))


MODELS: dict[str, Callable[[Path], CausalLM]] = {
    "chatglm": lambda folder: _made("chatglm", folder),
    "chatglm2": lambda folder: _made("chatglm2", folder),
    "chatglm3": lambda folder: _made("chatglm3", folder),
    "per_head": lambda folder: _made("chatglm2", folder, multi_query_attention=False, num_key_value_heads=4),
    "int4": lambda folder: _made("chatglm2", folder).quantize(4),
    "lora": lambda folder: _with_lora(_made("chatglm2", folder)),
    "prefix": lambda folder: _with_prefix(_made("chatglm2", folder)),
    "chatglm_prefix": lambda folder: _with_prefix(_made("chatglm", folder)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CausalLM]:
    paddle.seed(0)
    model = MODELS[request.param](tmp_path_factory.mktemp("models"))
    model.eval()
    yield model


def prompt(model: CausalLM, length: int) -> np.ndarray:
    config = model.config
    ids = np.random.RandomState(length).randint(10, 490, (1, length)).astype(np.int64)
    if config.family == "chatglm":
        ids[:, -2:] = config.gmask_token_id, config.bos_token_id
    return ids


def padded(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    width = max(row.shape[1] for row in rows)
    pairs = [(np.pad(row, ((0, 0), (width - row.shape[1], 0))), row.shape[1]) for row in rows]
    mask = [[0] * (width - length) + [1] * length for _, length in pairs]
    return np.concatenate([row for row, _ in pairs]), np.array(mask)


@pytest.mark.parametrize("operators", [True, False], ids=["native", "plain"])
def test_a_model_computes_the_same_in_pages(
    model: CausalLM, operators: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 1 to 4 pages that come, grow over the edges of pages, and go."""
    prompts = [prompt(model, length) for length in (5, 60, 133, 61, 190)]
    tokens = np.random.RandomState(1).randint(10, 490, (len(prompts), 8)).astype(np.int64)
    alone = []
    for row, ids in enumerate(prompts):
        backend = DygraphBackend(model)
        logits = [backend.prefill(ids, np.ones_like(ids))]
        alone.append(logits + [backend.decode(tokens[row, place : place + 1]) for place in range(8)])

    if not operators:
        for module in (attention, modeling):
            monkeypatch.setattr(module, "uses_operators", lambda: False)
    paged = DygraphBackend(model)
    paged.limit_cache(24 * 2 * 2 * model.config.num_key_value_heads * 64 * 64 * 4)
    running = [[0, 0], [1, 0], [2, 0]]  # row of `prompts`, tokens it has

    def check(logits: np.ndarray, rows: list[list[int]]) -> None:
        expected = np.concatenate([alone[row][place] for row, place in rows])
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())

    def decode() -> None:
        logits = paged.decode(np.array([tokens[row, place] for row, place in running]))
        for one in running:
            one[1] += 1
        check(logits, running)

    check(paged.prefill(*padded([prompts[row] for row, _ in running])), running)
    for _ in range(3):
        decode()
    check(add_rows(paged, *padded(prompts[3:])), [[3, 0], [4, 0]])
    running += [[3, 0], [4, 0]]
    for _ in range(3):
        decode()
    kept = paged.row_cache(2)
    paged.select(np.array([4, 1, 3]))
    paged.drop_padding()
    running = [running[row] for row in (4, 1, 3)]
    decode()
    if model.family.is_causal:
        ids = np.concatenate([prompts[2], tokens[2:3, :7]], axis=1)
        reading = paged.start_reading(ids, np.ones_like(ids), kept)
        assert reading.columns_read == ids.shape[1] - 1
        logits = paged.read(reading, 1)
        assert logits is not None
        check(logits, [[2, 7]])
        paged.join(reading)
        running += [[2, 7]]
        decode()
    kept.release()
    paged.release()
    assert paged.cache_nbytes == 0


def test_the_limit_is_kept(tmp_path: Path) -> None:
    model = _made("chatglm2", tmp_path)
    backend, page = DygraphBackend(model), 2 * 2 * 2 * 64 * 64 * 4
    with pytest.raises(InputError, match=f"KV cache of 1000 bytes: expected {page} or more"):
        backend.limit_cache(1000)
    backend.limit_cache(4 * page + 5)
    backend.check_lengths_fit([64, 64, 65])
    with pytest.raises(InsufficientMemoryError, match=r"of 3 x 65 tokens needs \d\.\d MB of the \d\.\d MB"):
        backend.check_lengths_fit([64, 65, 65])
    long, short = prompt(model, 128), prompt(model, 63)
    with pytest.raises(InsufficientMemoryError):
        backend.prefill(*padded([long, long, short]))
    backend.prefill(long, np.ones_like(long))
    add_rows(backend, short, np.ones_like(short))
    assert backend.cache_nbytes == 3 * page
    with pytest.raises(InsufficientMemoryError):
        add_rows(backend, long, np.ones_like(long))
    backend.check_lengths_fit([250])  # the running rows count as free
    backend.decode(np.array([5, 6]))
    mask = backend._mask.copy()
    with pytest.raises(InsufficientMemoryError):
        for _ in range(2):
            mask = backend._mask.copy()
            backend.decode(np.array([5, 6]))
    np.testing.assert_array_equal(backend._mask, mask)
    kept = backend.row_cache(0)
    assert (kept.nbytes, backend.cache_nbytes) == (3 * page, 4 * page)
    backend.select(np.array([1]))
    assert backend.cache_nbytes == 4 * page  # the ended row's pages are kept
    kept.release()
    assert backend.cache_nbytes == page
    backend.decode(np.array([7]))
