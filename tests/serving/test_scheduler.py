"""Requests over one model: order, limits, failures; with a backend that takes rows up and without."""

import threading
import time

import numpy as np
import pytest

from paddle_glm.auto.engine import Engine, open_engine
from paddle_glm.errors import InputError
from paddle_glm.generation import ChatSession, GenerationParams, generate_batch
from paddle_glm.serving.batching.generation_request import QueueFullError, SchedulerClosedError
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.batching.streaming import LocalSession
from tests.generation.numpy_model import NumpyBackend
from tests.serving.collector import Collector

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [30], [5, 6], [40, 41, 42, 43, 44, 45, 46], [7]]


@pytest.fixture(params=["continuous", "batch after batch"])
def make(request, tiny_checkpoint):
    """Makes a scheduler over the tiny model, or over one that cannot take rows up."""
    made = []

    def make_scheduler(backend=None, **limits):
        def open_it():
            if request.param == "continuous" and backend is None:
                return open_engine(tiny_checkpoint)
            return Engine(backend or NumpyBackend(vocab=600, limit=256), None, GenerationParams())

        made.append(Scheduler(open_it, **limits))
        return made[-1]

    yield make_scheduler
    for scheduler in made:
        scheduler.close()


@pytest.mark.parametrize("size", [1, 3, 8])
def test_every_request_gets_the_tokens_that_it_gets_alone(make, size):
    scheduler = make(max_batch_size=size)
    ways = [
        GenerationParams(do_sample=False, max_new_tokens=9),
        GenerationParams(do_sample=False, max_new_tokens=3, repetition_penalty=1.5),
        GenerationParams(seed=4, max_new_tokens=14, temperature=1.3),
    ]
    jobs = [(prompt, way, Collector()) for way in ways for prompt in PROMPTS]
    for prompt, way, listener in jobs:
        scheduler.submit(prompt, way, listener)
        time.sleep(0.003)  # so that some join in the middle
    answers = [listener.wait() for _, _, listener in jobs]
    scheduler.close()
    expected = [generate_batch(scheduler.engine.backend, [prompt], way)[0] for prompt, way, _ in jobs]
    assert answers == expected


def test_a_long_prompt_is_not_read_beside_short_ones(tiny_checkpoint):
    """Padding would cost more than the prompts; prompts of about one length are read together."""
    read = []
    hold = threading.Event()

    def open_it():
        engine = open_engine(tiny_checkpoint)
        run = engine.backend.run

        def recording(inputs):
            hold.wait(10)
            if inputs["input_ids"].shape[1] > 1:
                read.append(inputs["input_ids"].shape)
            return run(inputs)

        engine.backend.run = recording
        return engine

    scheduler = Scheduler(open_it, prefill_chunk=100)
    params = GenerationParams(do_sample=False, max_new_tokens=6)
    lengths = (3, 5, 4, 80, 6, 5, 7)
    listeners = [Collector() for _ in lengths]
    for length, listener in zip(lengths, listeners, strict=True):
        scheduler.submit([7] * length, params, listener)
        if length == 3:
            wait_until(lambda: scheduler.waiting == 0)  # it is being read; the others come meanwhile
    hold.set()
    for listener in listeners:
        assert len(listener.wait()) == 6
    scheduler.close()
    assert read == [(1, 3), (2, 5), (1, 80), (3, 7)]


def test_a_listener_ends_its_answer_and_others_go_on(make):
    scheduler = make()
    params = GenerationParams(do_sample=False, max_new_tokens=20)
    short, long = Collector(most=3), Collector()
    scheduler.submit(PROMPTS[0], params, long)
    scheduler.submit(PROMPTS[1], params, short)
    assert len(short.wait()) == 3
    assert len(long.wait()) == 20


class Held(NumpyBackend):
    """Computes when it is let."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.gate = threading.Semaphore(0)
        self.fail = False

    def run(self, inputs):
        self.gate.acquire()
        if self.fail:
            raise RuntimeError("out of memory")
        return super().run(inputs)


@pytest.fixture
def held():
    backend = Held(vocab=60, limit=256)
    scheduler = Scheduler(lambda: Engine(backend, None, GenerationParams()), 2, 2)
    yield backend, scheduler
    backend.gate.release(10_000)
    scheduler.close()


GREEDY = GenerationParams(do_sample=False, max_new_tokens=5)


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen")


def test_the_queue_is_bounded_and_in_order(held):
    backend, scheduler = held
    listeners = [Collector() for _ in range(3)]
    scheduler.submit([1], GREEDY, listeners[0])
    wait_until(lambda: scheduler.waiting == 0)  # it has begun
    waiting = [scheduler.submit([place], GREEDY, listeners[place]) for place in (1, 2)]
    with pytest.raises(QueueFullError, match="2 are waiting"):
        scheduler.submit([3], GREEDY, Collector())
    waiting[0].cancel()  # makes room
    last = Collector()
    scheduler.submit([3], GREEDY, last)
    backend.gate.release(10_000)
    for listener in (listeners[0], listeners[2], last):
        assert len(listener.wait()) == 5
    assert listeners[1].tokens == []


def test_a_queue_that_is_too_slow_refuses(held):
    backend, scheduler = held
    scheduler._queue_wait.on_ended(1, now=0.0, waiting=True)
    scheduler._queue_wait.on_ended(1, now=400.0, waiting=True)
    listeners = [Collector() for _ in range(2)]
    scheduler.submit([1], GREEDY, listeners[0])
    wait_until(lambda: scheduler.waiting == 0)
    scheduler.submit([2], GREEDY, listeners[1])
    with pytest.raises(QueueFullError, match="would take 800 s") as refused:
        scheduler.submit([3], GREEDY, Collector())
    assert refused.value.retry_after == 200
    backend.gate.release(10_000)
    for listener in listeners:
        assert len(listener.wait()) == 5


def test_a_failed_step_fails_those_that_ran_and_no_others(held):
    backend, scheduler = held
    ran, later = Collector(), Collector()
    scheduler.submit([1], GREEDY, ran)
    backend.gate.release(2)
    wait_until(lambda: len(ran.tokens) == 2)
    scheduler.submit([2], GREEDY, later)
    backend.fail = True
    backend.gate.release(1)
    ran.wait()
    assert isinstance(ran.error, RuntimeError)
    backend.fail = False
    backend.gate.release(10_000)
    assert len(later.wait()) == 5 and later.error is None


def test_a_listener_that_fails_harms_nobody(held):
    backend, scheduler = held

    class Broken(Collector):
        def on_token(self, token, logprobs):
            raise RuntimeError("the event loop is gone")

        def on_failed(self, error):
            raise RuntimeError("still gone")

    good = Collector()
    scheduler.submit([1], GREEDY, Broken())
    scheduler.submit([2], GREEDY, good)
    backend.gate.release(10_000)
    assert len(good.wait()) == 5


def test_closing_fails_what_is_not_complete(held):
    backend, scheduler = held
    listeners = [Collector() for _ in range(2)]
    scheduler.submit([1], GREEDY, listeners[0])
    wait_until(lambda: scheduler.waiting == 0)
    scheduler.submit([2], GREEDY, listeners[1])
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    wait_until(lambda: scheduler._closed)
    backend.gate.release(10_000)
    closing.join(10)
    for listener in listeners:
        listener.wait()
        assert isinstance(listener.error, SchedulerClosedError)
    with pytest.raises(SchedulerClosedError):
        scheduler.submit([3], GREEDY, Collector())


def test_requests_that_cannot_run(make):
    scheduler = make()
    with pytest.raises(InputError, match="num_beams 2"):
        scheduler.submit([1], GenerationParams(do_sample=False, num_beams=2), Collector())
    with pytest.raises(InputError, match="leaves no room"):
        scheduler.submit([1] * 5000, GREEDY, Collector())
    bad = Collector()
    scheduler.submit([10**6], GREEDY, bad)
    bad.wait()
    assert "vocabulary" in str(bad.error)


def test_an_engine_that_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="not found"):
        Scheduler(lambda: open_engine(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="max_batch_size 0"):
        Scheduler(lambda: open_engine(tmp_path), max_batch_size=0)


def test_broken_logits_fail_their_row_alone(held):
    backend, scheduler = held
    run = backend.run

    def run_broken(inputs):
        logits = run(inputs)
        logits[0] = np.nan
        return logits

    backend.run = run_broken
    broken = Collector()
    scheduler.submit([1], GREEDY, broken)
    backend.gate.release(10_000)
    broken.wait()
    assert "not finite" in str(broken.error)


def test_a_local_session_is_a_chat_session(tiny_checkpoint):
    engine = open_engine(tiny_checkpoint)
    params = GenerationParams(do_sample=False, max_new_tokens=10)
    expected = ChatSession(engine.backend, engine.tokenizer, params)
    scheduler = Scheduler(lambda: open_engine(tiny_checkpoint))
    session = LocalSession(scheduler, params)
    messages = [{"role": "user", "content": "你好"}]
    assert list(session.stream(messages)) == list(expected.stream(messages))
    assert session.reply == expected.reply
    pieces = LocalSession(scheduler, GenerationParams(max_new_tokens=900)).stream(messages)
    next(pieces)
    pieces.close()  # leaving ends the answer
    wait_until(lambda: scheduler.running == 0)
    scheduler.close()
    with pytest.raises(SchedulerClosedError):
        session.stream(messages)
