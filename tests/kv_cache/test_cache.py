"""Every kind of cache against plain concatenation, after any sequence of operations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.kv_cache import NUMPY, ConcatLayer, KVCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.kv_cache.tensors import PADDLE, BufferLayer
from paddle_glm.layers.attention_mask import MASK_VALUE, AttentionMask
from paddle_glm.numpy_interop import cpu_view

LAYERS, HEADS, SIZE, BLOCK = 2, 2, 8, 4


class Decoding(DecodeLayer):
    """One token is written as the fused operator writes it: 4 float32 of a key are 16 bytes."""

    def update(self, key: paddle.Tensor, value: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        if key.shape[2] > 1 or not self.length:
            return super().update(key, value)
        buffer, column = self.decode_buffer()
        keys, values = cpu_view(buffer)
        batch, heads, capacity, size = keys.shape
        assert buffer.is_contiguous() and capacity % 4 == 0 and column == self.length - 1
        vectors = keys.reshape(batch, heads, size // 4, capacity, 4)
        vectors[:, :, :, column] = key.numpy().reshape(batch, heads, size // 4, 4)
        values[:, :, column] = value.numpy()[:, :, 0]
        return buffer[0], buffer[1]


KINDS: dict[str, Callable[..., Any]] = {
    "numpy": lambda *pair: ConcatLayer(NUMPY, *pair),
    "paddle": lambda *pair: ConcatLayer(PADDLE, *pair),
    "buffer": lambda *pair: BufferLayer(*pair, block=BLOCK),
    "decoding": lambda *pair: Decoding(*pair, block=BLOCK),
}


def made(kind: str, array: np.ndarray) -> Any:
    return array if kind == "numpy" else paddle.to_tensor(array)


class Reference:
    """Key and value of each layer as numpy arrays, [2 * layers, batch, heads, columns, size]."""

    def __init__(self, prefix: np.ndarray) -> None:
        self.columns, self.first = prefix, prefix.shape[3]

    def update(self, new: np.ndarray) -> None:
        self.columns = np.concatenate([self.columns, new], axis=3)

    def select(self, rows: np.ndarray) -> None:
        self.columns = self.columns[:, rows]

    def drop(self, count: int) -> None:
        kept = [self.columns[:, :, :, : self.first], self.columns[:, :, :, self.first + count :]]
        self.columns = np.concatenate(kept, axis=3)

    def add(self, other: "Reference") -> None:
        width = max(self.columns.shape[3], other.columns.shape[3])
        self.columns = np.concatenate([self.padded(width), other.padded(width)], axis=1)

    def padded(self, width: int) -> np.ndarray:
        shape = [*self.columns.shape[:3], width - self.columns.shape[3], SIZE]
        parts = [self.columns[:, :, :, : self.first], np.zeros(shape), self.columns[:, :, :, self.first :]]
        return np.concatenate(parts, axis=3).astype(np.float32)


class Pair:
    """A cache and its reference, which take the same operations."""

    def __init__(self, kind: str, batch: int, prefix: int, numbers: np.random.Generator) -> None:
        self.kind, self.numbers = kind, numbers
        self.reference = Reference(self.random(batch, prefix))
        tensors = [made(kind, array) for array in self.reference.columns]
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        layers = [KINDS[kind](*(pair if prefix else ())) for pair in pairs]
        self.cache = KVCache(layers, prefix)

    def random(self, batch: int, tokens: int) -> np.ndarray:
        shape = (2 * LAYERS, batch, HEADS, tokens, SIZE)
        return self.numbers.standard_normal(shape, np.float32)

    def update(self, tokens: int) -> None:
        new = self.random(self.reference.columns.shape[1], tokens)
        self.reference.update(new)
        length, spare = self.cache.length, self.cache.spare(tokens)
        for layer, (key, value) in zip(self.cache.layers, zip(new[::2], new[1::2], strict=True), strict=True):
            for seen in layer.update(made(self.kind, key), made(self.kind, value)):
                assert seen.shape[2] == length + tokens + spare
                assert np.isfinite(np.asarray(seen)).all()

    def check(self) -> None:
        expected = self.reference.columns
        assert self.cache.length == self.cache.own_length + self.reference.first == expected.shape[3]
        assert len(self.cache) == LAYERS
        assert len(self.cache.tensors) == len(expected)
        for ours, theirs in zip(self.cache.tensors, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(ours), theirs)
        used = sum(array.nbytes for array in expected)
        most = 2 * LAYERS * expected.shape[1] * HEADS * SIZE * 4 * (BLOCK - 1)  # of unused columns
        assert used <= self.cache.nbytes <= used + most


OPERATION = st.one_of(
    st.tuples(st.just("update"), st.integers(1, 6)),
    st.tuples(st.just("update"), st.just(1)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    st.tuples(st.just("add"), st.tuples(st.integers(1, 2), st.integers(1, 9))),
    st.tuples(st.just("drop"), st.integers(0, 5)),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    prefix=st.integers(0, 3),
    prompt=st.integers(1, 6),
    operations=st.lists(OPERATION, max_size=14),
)
def test_any_sequence_is_plain_concatenation(
    kind: str, batch: int, prefix: int, prompt: int, operations: list[tuple[str, Any]]
) -> None:
    numbers = np.random.default_rng(0)
    pair = Pair(kind, batch, prefix, numbers)
    pair.update(prompt)
    pair.check()
    for name, argument in operations:
        held = pair.cache.tensors
        before = [np.array(tensor) for tensor in held]
        if name == "update":
            pair.update(argument)
        elif name == "select":
            rows = np.array(argument) % pair.reference.columns.shape[1]
            pair.reference.select(rows)
            pair.cache.select(rows)
        elif name == "add":
            other = Pair(kind, argument[0], prefix, numbers)
            other.update(argument[1])
            pair.reference.add(other.reference)
            pair.cache.add_rows(other.cache)
            other.check()
        else:
            count = min(argument, pair.cache.own_length - 1)
            pair.reference.drop(count)
            pair.cache.drop_columns(count)
        pair.check()
        # Those who were given columns may keep them.
        for tensor, array in zip(held, before, strict=True):
            np.testing.assert_array_equal(np.asarray(tensor), array)


def test_a_buffer_grows_by_blocks_and_is_written_in_place() -> None:
    layer = BufferLayer(block=BLOCK)
    layer.update(*paddle.randn([2, 1, HEADS, 5, SIZE]).unbind())
    assert (layer.length, layer.capacity) == (5, 5)  # a prompt takes no more than it needs
    places = []
    for _ in range(9):
        key, value = layer.update(*paddle.randn([2, 1, HEADS, 1, SIZE]).unbind())
        places.append((key.data_ptr(), value.data_ptr(), key.shape[2]))
    assert [width for _, _, width in places] == [8] * 3 + [12] * 4 + [16] * 2
    assert len(set(places)) == 3  # one place for each width


def test_a_prompts_values_do_not_keep_the_projection_they_are_a_view_of() -> None:
    fused = paddle.randn([1, 6, 4, SIZE])
    layer = BufferLayer()
    layer.update(*(fused[:, :, part : part + 2].transpose([0, 2, 1, 3]) for part in (0, 2)))
    for tensor in layer.key_value:
        assert tensor.is_contiguous()
        assert tensor.data_ptr() not in range(fused.data_ptr(), fused.data_ptr() + 4 * fused.size)


def test_two_continuations_of_the_same_columns_do_not_meet() -> None:
    first = BufferLayer(block=BLOCK)
    first.update(*paddle.randn([2, 1, HEADS, 5, SIZE]).unbind())
    first.update(*paddle.randn([2, 1, HEADS, 1, SIZE]).unbind())
    second = BufferLayer(*first.key_value, block=BLOCK)
    ones, twos = paddle.ones([1, HEADS, 1, SIZE]), paddle.full([1, HEADS, 1, SIZE], 2.0)
    first.update(ones, ones)
    second.update(twos, twos)
    assert (first.key_value[0][:, :, -1] == 1).all() and (second.key_value[0][:, :, -1] == 2).all()


def test_rows_that_cannot_be_added_leave_the_others_as_they_were() -> None:
    numbers = np.random.default_rng(0)
    pair, other = (Pair("buffer", 2, 1, numbers) for _ in range(2))
    pair.update(2)
    other.update(5)
    last = other.cache.layers[-1]
    last.replace(*(paddle.zeros([1, HEADS + 1, 6, SIZE]) for _ in range(2)))
    with pytest.raises(ValueError):
        pair.cache.add_rows(other.cache)
    pair.check()
    pair.update(1)
    pair.check()


def test_concatenation_has_gradients() -> None:
    key, value = (paddle.randn([1, HEADS, 2, SIZE]) for _ in range(2))
    key.stop_gradient = value.stop_gradient = False
    cache = KVCache([ConcatLayer(PADDLE, key, value)], 2)
    keys, values = cache.layers[0].update(*(paddle.randn([1, HEADS, 4, SIZE]) for _ in range(2)))
    (keys.sum() + 3 * values.sum()).backward()
    assert (key.grad == 1).all() and (value.grad == 3).all()


def test_the_mask_covers_prefix_and_unused_columns() -> None:
    cache = KVCache([BufferLayer(*paddle.zeros([2, 1, HEADS, 5, SIZE]).unbind(), block=BLOCK)], 2)
    mask = AttentionMask(paddle.to_tensor([[0, 1, 1, 1]]), 1)
    wide = mask.for_cache(cache).dense
    assert wide.numpy().tolist() == [[[[0, 0, MASK_VALUE, 0, 0, 0, MASK_VALUE, MASK_VALUE]]]]
    assert wide.shape[3] == cache.layers[0].update(*paddle.zeros([2, 1, HEADS, 1, SIZE]).unbind())[0].shape[2]
    empty = KVCache([BufferLayer()])
    assert mask.for_cache(empty) is mask
