"""Prompts that are read in pieces beside running requests, and beginnings that are not read again."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from paddle_glm.auto.engine import open_engine
from paddle_glm.backends.kv_cache import RowCache
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.kv_cache import NUMPY, RowColumns
from paddle_glm.serving.batching.generation_request import SchedulerObserver
from paddle_glm.serving.batching.prefix_store import MIN_TOKENS, PrefixStore
from paddle_glm.serving.batching.scheduler import Scheduler
from tests.serving.collector import Collector

LONG = [5 + index * 7 % 90 for index in range(150)]
GREEDY = GenerationParams(do_sample=False, max_new_tokens=24)


class Recorder(SchedulerObserver):
    def __init__(self):
        self.reused = []

    def on_reused(self, tokens):
        self.reused.append(tokens)


@pytest.fixture
def make(tiny_checkpoint):
    made = []

    def make_scheduler(folder=tiny_checkpoint, **options):
        scheduler = Scheduler(lambda: open_engine(folder), **options)
        made.append(scheduler)
        scheduler.observer = Recorder()
        return scheduler

    yield make_scheduler
    for scheduler in made:
        scheduler.close()


def alone(folder, prompt, params=GREEDY):
    return generate_batch(open_engine(folder).backend, [prompt], params)[0]


def ask(scheduler, prompt, params=GREEDY, adapter=None):
    collector = Collector()
    scheduler.submit(prompt, params, collector, adapter=adapter)
    return collector


def steps_of(scheduler):
    """Records (rows, tokens) of each step."""
    steps, run = [], scheduler.engine.backend.run

    def recorded(inputs):
        steps.append(inputs["input_ids"].shape)
        return run(inputs)

    scheduler.engine.backend.run = recorded
    return steps


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def test_a_long_prompt_does_not_stop_running_answers(make, tiny_checkpoint):
    scheduler = make(prefill_chunk=16, prefix_memory=0)
    steps = steps_of(scheduler)
    first = ask(scheduler, [7, 8, 9], GenerationParams(do_sample=False, max_new_tokens=80))
    assert first.started.wait(60)
    second, third = ask(scheduler, LONG), ask(scheduler, [*LONG[:70], 9])
    assert second.answer() == alone(tiny_checkpoint, LONG)
    assert third.answer() == alone(tiny_checkpoint, [*LONG[:70], 9])
    assert first.answer() == alone(
        tiny_checkpoint, [7, 8, 9], GenerationParams(do_sample=False, max_new_tokens=80)
    )
    pieces = [place for place, (_, tokens) in enumerate(steps) if tokens > 1]
    assert max(steps[place][1] for place in pieces[1:]) <= 16
    # A token of the running ones between two pieces.
    assert all(later - earlier == 2 for earlier, later in pairwise(pieces[1:10]))


def held_run(scheduler):
    """Steps as `steps_of`; each waits for the semaphore."""
    gate, run = threading.Semaphore(0), scheduler.engine.backend.run

    def held(inputs):
        assert gate.acquire(timeout=60)
        return run(inputs)

    scheduler.engine.backend.run = held
    return steps_of(scheduler), gate


def test_a_short_prompt_overtakes_a_long_one(make, tiny_checkpoint):
    """With nothing running: it is read between two pieces, and its answer comes between the others."""
    scheduler = make(prefill_chunk=16, prefix_memory=0)
    steps, gate = held_run(scheduler)
    long = ask(scheduler, LONG)
    wait_until(lambda: len(steps) == 1)
    short, third = ask(scheduler, [7, 8, 9, 10]), ask(scheduler, [*LONG[:60], 9])
    gate.release(10_000)
    assert short.answer() == alone(tiny_checkpoint, [7, 8, 9, 10])
    assert third.answer() == alone(tiny_checkpoint, [*LONG[:60], 9])
    assert long.answer() == alone(tiny_checkpoint, LONG)
    assert steps[:3] == [(1, 16), (1, 4), (1, 1)]


def test_a_long_prompt_gets_every_other_piece(make, tiny_checkpoint):
    """However many shorter ones come."""
    scheduler = make(prefill_chunk=8, prefix_memory=0, max_batch_size=64)
    steps, gate = held_run(scheduler)
    long = ask(scheduler, LONG)
    wait_until(lambda: len(steps) == 1)
    others = [ask(scheduler, LONG[: 9 + place]) for place in range(0, 60, 2)]
    gate.release(10_000)
    assert long.answer() == alone(tiny_checkpoint, LONG)
    for place, other in enumerate(others):
        assert len(other.answer()) == 24, place
    # The long prompt's last piece has 6 tokens; by then, about as many pieces were of others.
    last = max(place for place, step in enumerate(steps) if step == (1, 6))
    assert sum(tokens > 1 for _, tokens in steps[:last]) <= 2 * (len(LONG) // 8 + 1)


def test_requests_that_leave_while_they_are_read(make, tiny_checkpoint):
    scheduler = make(prefill_chunk=8, prefix_memory=0)
    first = ask(scheduler, [7, 8, 9], GenerationParams(do_sample=False, max_new_tokens=60))
    assert first.started.wait(60)
    left = scheduler.submit(LONG, GREEDY, Collector())
    left.cancel()
    assert ask(scheduler, [5, 6]).answer() == alone(tiny_checkpoint, [5, 6])
    assert len(first.answer()) == 60


def test_the_next_turn_reads_only_what_is_new(make, tiny_checkpoint):
    scheduler = make()
    steps = steps_of(scheduler)
    answer = ask(scheduler, LONG).answer()
    following = [*LONG, *answer, 8, 9, 10]
    assert ask(scheduler, following).answer() == alone(tiny_checkpoint, following)
    # The last token of the answer was sampled, never computed.
    assert scheduler.observer.reused == [len(LONG) + len(answer) - 1]
    prompts = [tokens for _, tokens in steps if tokens > 1]
    assert prompts == [len(LONG), 4]
    # A beginning shared with another conversation, in the middle of what is stored.
    other = [*LONG[:60], 3, 4]
    assert ask(scheduler, other).answer() == alone(tiny_checkpoint, other)
    assert scheduler.observer.reused[1] == 60
    # The same prompt again: its last token is computed.
    assert ask(scheduler, LONG).answer() == answer and scheduler.observer.reused[2] == len(LONG) - 1


def test_rows_beside_each_other_leave_their_own_columns(make, tiny_checkpoint):
    scheduler = make()
    prompts = [LONG[:90], LONG[40:120], LONG[20:130]]
    first = ask(scheduler, [7, 8, 9], GenerationParams(do_sample=False, max_new_tokens=40))
    assert first.started.wait(60)
    answers = [collector.answer() for collector in [ask(scheduler, prompt) for prompt in prompts]]
    first.answer()
    for prompt, answer in zip(prompts, answers, strict=True):
        following = [*prompt, *answer, 11]
        assert ask(scheduler, following).answer() == alone(tiny_checkpoint, following)
    assert [len(prompt) + 23 for prompt in prompts] == scheduler.observer.reused[-3:]


def test_the_store_is_bounded():
    def row(first, length, adapter=None):
        """16 bytes a token."""
        tensors = [np.zeros((1, 1, length, 2), np.float32)] * 2
        columns = RowColumns(tensors, NUMPY)
        return RowCache(np.arange(first, first + length), columns, adapter=adapter)

    store = PrefixStore(1400)
    store.add(row(0, MIN_TOKENS - 1))
    store.add(row(0, 100))
    assert len(store) == 0
    store.add(row(0, 20))
    store.add(row(0, 40))  # goes on from the first
    assert len(store) == 1
    assert store.find(list(range(60)), "ads") is None
    store.add(row(100, 20))
    assert store.find(list(range(60))) is not None  # now used last
    assert store.find(list(range(MIN_TOKENS))) is None  # its last token is computed
    store.add(row(200, 40))
    assert store.nbytes == 1280 and store.find(list(range(100, 160))) is None
    assert store.drop_oldest() and store.drop_oldest() and not store.drop_oldest()
    for name in (None, "ads"):
        store.add(row(0, 20, name))
    found = store.find(list(range(60)), "ads")
    assert len(store) == 2 and found is not None and found.adapter == "ads"
