"""Memory for keys and values: bounded, given up by ended requests first, then by those that began last."""

import threading
import time
from weakref import WeakSet

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.auto.engine import Engine, open_engine
from paddle_glm.backends.kv_cache import CacheLimitError, KVCacheBackend, RowCache
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.kv_cache import NUMPY, KVCache
from paddle_glm.serving.batching import admission
from paddle_glm.serving.batching.generation_request import SchedulerObserver
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.generation.numpy_model import NumpyBackend
from tests.serving.collector import Collector

BLOCK = 4  # tokens; a token takes a byte


def blocks(tokens):
    return -(-tokens // BLOCK) * BLOCK


class PooledBackend(KVCacheBackend):
    """The model in numpy, and the arithmetic of a cache in pages; refuses what exceeds its limit."""

    is_paged = True
    stored_dtype = "float32"

    def __init__(self):
        self.model = NumpyBackend(vocab=50, limit=128)
        super().__init__(self.model.config)
        self.kept = self.peak = 0
        self.readings = WeakSet()

    def memory_budget(self):
        return None

    @property
    def prefix_lengths(self):
        return {None: 0}

    def new_cache(self, batch, adapter=None):
        return KVCache.of([np.zeros((batch, 1, 0, 8))] * 2, NUMPY)

    def cache_of(self, tensors, adapter=None):
        return KVCache.of(tensors, NUMPY)

    def run(self, inputs):
        self.model.cache = self._cache[0][0][:, 0]
        logits = self.model.run(inputs)
        self._cache = self.cache_of([self.model.cache[:, None]] * 2)
        return logits

    @property
    def cache_nbytes(self):
        return sum(map(blocks, self._mask.sum(axis=1).tolist())) + self.kept

    def check_lengths_fit(self, lengths, stored_nbytes=0):
        needed = sum(map(blocks, lengths))
        if self.cache_limit is not None and needed + stored_nbytes > self.cache_limit:
            raise CacheLimitError(lengths, needed, self.cache_limit - stored_nbytes)

    def prepare_decode(self):
        self.check_lengths_fit((self._mask.sum(axis=1) + 1).tolist(), self.kept)

    def reading_nbytes(self, rows, tokens):
        return rows * tokens

    def start_reading(self, *batch):
        reading = super().start_reading(*batch)
        self.readings.add(reading.cache)
        return reading

    def measure(self):
        """Prompts that are being read, and those that have just joined, are beside the pages."""
        read = sum(cache[0][0].shape[0] * cache[0][0].shape[2] for cache in self.readings)
        self.peak = max(self.peak, self.cache_nbytes + read)

    def read(self, reading, tokens):
        logits = super().read(reading, tokens)
        self.readings.add(reading.cache)
        self.measure()
        return logits

    def decode(self, tokens):
        logits = super().decode(tokens)
        self.measure()
        return logits

    def join(self, reading, replace=False):
        super().join(reading, replace)
        self.measure()

    def row_cache(self, row):
        copied = super().row_cache(row)
        return RowCache(copied.input_ids, Kept(self, blocks(len(copied.input_ids)), copied))


class Kept:
    def __init__(self, backend, nbytes, row):
        self.backend, self.nbytes, self.row = backend, nbytes, row
        backend.kept += nbytes

    def first(self, columns):
        return self.row.first_columns(columns)

    def release(self):
        self.backend.kept -= self.nbytes


class Observer(SchedulerObserver):
    def __init__(self):
        self.preempted = self.prompt = self.reused = 0

    def on_reused(self, tokens):
        self.reused += tokens

    def on_preempted(self):
        self.preempted += 1

    def on_prompt(self, tokens):
        self.prompt += tokens


def serve(backend, jobs, submitted=None, **options):
    """(answers, observer, scheduler) of (prompt, params), all submitted at once."""
    scheduler = Scheduler(lambda: Engine(backend, None, GenerationParams()), **options)
    scheduler.observer = observer = Observer()
    try:
        listeners = [Collector() for _ in jobs]
        for (prompt, params), listener in zip(jobs, listeners, strict=True):
            scheduler.submit(prompt, params, listener)
        if submitted is not None:
            submitted.set()
        return [listener.answer() for listener in listeners], observer, scheduler
    finally:
        scheduler.close()


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 49), min_size=1, max_size=40),
        st.builds(
            GenerationParams,
            do_sample=st.booleans(),
            seed=st.integers(0, 3),
            max_new_tokens=st.integers(1, 30),
            repetition_penalty=st.sampled_from([1.0, 1.3]),
        ),
    ),
    min_size=1,
    max_size=10,
)


@settings(deadline=None, max_examples=40)
@given(requests=REQUESTS, limit=st.integers(216, 700), reserved=st.integers(1, 12), chunk=st.integers(1, 20))
def test_the_limit_holds_and_answers_are_those_of_requests_alone(requests, limit, reserved, chunk):
    backend = PooledBackend()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "RESERVED_TOKENS", reserved)
        answers, observer, scheduler = serve(backend, requests, cache_memory=limit, prefill_chunk=chunk)
    assert backend.peak <= limit
    assert observer.prompt == sum(len(prompt) for prompt, _ in requests)
    # Nothing is left but what is stored.
    assert scheduler.memory.nbytes == backend.kept == scheduler.memory.store.nbytes <= limit // 2
    alone = PooledBackend()
    assert answers == [generate_batch(alone, [prompt], params)[0] for prompt, params in requests]


def greedy(tokens):
    return GenerationParams(do_sample=False, max_new_tokens=tokens)


def test_the_request_that_began_last_is_computed_again(monkeypatch):
    monkeypatch.setattr(admission, "RESERVED_TOKENS", 1)
    backend = PooledBackend()
    order, submitted = [], threading.Event()
    decode, start_reading = backend.decode, backend.start_reading

    def recorded(tokens):
        order.append([ids[mask.argmax()] for ids, mask in zip(backend._ids, backend._mask, strict=True)])
        return decode(tokens)

    def waiting(*batch):
        assert submitted.wait(10)
        return start_reading(*batch)

    backend.decode, backend.start_reading = recorded, waiting
    jobs = [([first, 7], greedy(40)) for first in (1, 2, 3)]
    answers, observer, _ = serve(backend, jobs, submitted, cache_memory=128, prefix_memory=0)
    assert answers == [generate_batch(PooledBackend(), [prompt], params)[0] for prompt, params in jobs]
    assert observer.preempted >= 2
    assert order[5] == [1, 2, 3]
    # 42 bytes are for reading, 86 are three rows of 28 tokens, two of 40; the first never waits again.
    assert all(1 in step for step in order[:39])
    assert [1, 2] in order[:39] and [1] in order[:39]


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def test_the_store_gives_way():
    backend = PooledBackend()
    scheduler = Scheduler(
        lambda: Engine(backend, None, GenerationParams()), cache_memory=240, prefix_memory=200
    )
    try:
        held = []
        for first in range(5):
            listener = Collector()
            scheduler.submit([first, *range(5, 23)], greedy(2), listener)
            listener.answer()
            wait_until(lambda: scheduler.running == 0)
            held.append(scheduler.memory.store.nbytes)
        assert held == [20, 40, 60, 80, 100]
        long = Collector()
        scheduler.submit([9] * 60, greedy(20), long)
        long.answer()
        wait_until(lambda: scheduler.running == 0)
        assert backend.peak <= 240
        # A third is for reading: one row of the store had to go.
        assert scheduler.memory.store.nbytes == backend.kept == 160
    finally:
        scheduler.close()


def test_a_prompt_that_can_never_fit():
    backend = PooledBackend()
    scheduler = Scheduler(lambda: Engine(backend, None, GenerationParams()), cache_memory=144)
    try:
        with pytest.raises(PromptTooLongError, match=r"48 tokens leaves no room.*48 tokens of a request"):
            scheduler.submit([1] * 48, greedy(1), Collector())
        cut = Collector()
        scheduler.submit([1] * 40, greedy(60), cut)
        assert len(cut.answer()) == 8
    finally:
        scheduler.close()
    with pytest.raises(InputError, match="its limit leaves"):
        Scheduler(lambda: Engine(PooledBackend(), None, GenerationParams()), cache_memory=3)


@pytest.mark.parametrize("family", ["chatglm2", "chatglm"])
def test_real_models_go_on_where_they_were(family, tiny_rows, tmp_path, monkeypatch):
    """ChatGLM-6B attends both ways in its prompt, but not in the answer, also where that is read again."""
    monkeypatch.setattr(admission, "RESERVED_TOKENS", 1)
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(tmp_path, texts, family, vocab_size=512)
    engine = open_engine(tmp_path)
    prompts = [engine.tokenizer.encode(text) for text in ("裙", "颜色#白色", "类型")]
    params = [
        greedy(100),
        GenerationParams(seed=3, max_new_tokens=100),
        GenerationParams(do_sample=False, max_new_tokens=100, repetition_penalty=1.2),
    ]
    jobs = list(zip(prompts, params, strict=True))
    alone = [generate_batch(open_engine(tmp_path).backend, [prompt], way)[0] for prompt, way in jobs]
    engine.backend.limit_cache(10**9)
    page = engine.backend._pool.nbytes_per_page
    answers, observer, scheduler = serve(engine.backend, jobs, cache_memory=6 * page)
    assert answers == alone
    assert observer.preempted
    assert scheduler.memory.limit == 6 * page and engine.backend.cache_nbytes <= 3 * page


def prompt_of(tokens):
    return [5 + index * 7 % 90 for index in range(tokens)]


def opened(folder, pages):
    """An engine, and the bytes of so many pages."""
    engine = open_engine(folder)
    return engine, pages * engine.backend.reading_nbytes(1, 128) // 2


@pytest.mark.parametrize(
    "pages", [pytest.param(24, id="pages"), pytest.param(64, marks=pytest.mark.integration, id="padded")]
)
def test_prompts_that_are_read_count(pages, tiny_checkpoint, tmp_path, monkeypatch):
    """Beside running rows, in pages and, in an exported folder, padded to the longest."""
    engine, limit = opened(tiny_checkpoint, pages)
    if pages == 64:
        export_model(engine.backend.model, engine.tokenizer, tmp_path / "exported")
        engine = open_engine(tmp_path / "exported")
    monkeypatch.setattr(admission, "RESERVED_TOKENS", 1)
    found, readings = [], []

    def record(method):
        def recorded(*args, **keywords):
            result = method(*args, **keywords)
            found.append(scheduler.cache_nbytes)
            readings.append(len(scheduler._prompts.groups))
            return result

        return recorded

    engine.backend.run, engine.backend.join = map(record, (engine.backend.run, engine.backend.join))
    scheduler = Scheduler(lambda: engine, cache_memory=limit, prefill_chunk=32)
    try:
        jobs = [(9, 60), (400, 20), (30, 40), (200, 90), (20, 70), (330, 30)]
        listeners = []
        for tokens, answer in jobs:
            listeners.append(Collector())
            scheduler.submit(prompt_of(tokens), greedy(answer), listeners[-1])
            assert listeners[0].started.wait(60)
        assert [len(listener.answer()) for listener in listeners] == [answer for _, answer in jobs]
    finally:
        scheduler.close()
    assert limit // 3 < max(found) <= limit and max(readings) > 1


def test_pages_of_a_stored_beginning_count_once(tiny_checkpoint):
    """Two requests that begin as a stored row run beside it, where all three would not fit."""
    engine, limit = opened(tiny_checkpoint, 12)
    steps, run = [], engine.backend.run

    def recorded(inputs):
        steps.append(inputs["input_ids"].shape)
        return run(inputs)

    engine.backend.run = recorded
    jobs = [(prompt_of(210), greedy(2)), *(([*prompt_of(200), last], greedy(55)) for last in (1, 2))]
    scheduler = Scheduler(lambda: engine, cache_memory=limit)
    scheduler.observer = observer = Observer()
    try:
        answers = []
        for together in (jobs[:1], jobs[1:]):
            listeners = [Collector() for _ in together]
            for (prompt, params), listener in zip(together, listeners, strict=True):
                scheduler.submit(prompt, params, listener)
            answers += [listener.answer() for listener in listeners]
            wait_until(lambda: scheduler.running == 0)
    finally:
        scheduler.close()
    alone = open_engine(tiny_checkpoint).backend
    assert answers == [generate_batch(alone, [prompt], params)[0] for prompt, params in jobs]
    assert observer.reused == 400 and not observer.preempted
    assert (2, 1) in steps
