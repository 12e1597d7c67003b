"""Tests of how fast bodies of requests are read."""

import asyncio

import pytest

from paddle_glm.serving.http import body_pace
from paddle_glm.serving.http.body_pace import BodyPace

KB = 1 << 10


class Clock:
    """In place of an event loop's clock: sleeping is what moves it."""

    def __init__(self):
        self.now = 100.0

    def time(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(body_pace.asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(body_pace.asyncio, "get_running_loop", lambda: clock)
    return clock


def read(pace, size, chunk=64 * KB):
    for total in range(chunk, size + 1, chunk):
        with pytest.raises(StopIteration):  # it has ended: the clock's sleep waits for no event loop
            pace.wait(chunk, total).send(None)


def test_large_bodies_are_read_at_a_rate_that_all_of_them_share(clock):
    pace = BodyPace()
    for _ in range(3):
        read(pace, 1024 * KB)
    assert clock.now - 100 == pytest.approx(3 * 960 * KB / body_pace.BYTES_PER_SECOND)


def test_bodies_of_usual_prompts_do_not_wait(clock):
    pace = BodyPace()
    for _ in range(100):
        read(pace, 64 * KB, 8 * KB)
    assert clock.now == 100


def test_time_without_bodies_is_not_saved_up(clock):
    pace = BodyPace()
    read(pace, 1024 * KB)
    clock.now = 200.0
    read(pace, 1024 * KB, 1024 * KB)
    assert clock.now - 200 == pytest.approx(960 * KB / body_pace.BYTES_PER_SECOND)


def test_bodies_in_parallel_take_turns():
    async def both():
        pace = BodyPace()
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(pace.wait(1024 * KB, 1024 * KB) for _ in range(2)))
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(both()) > 1.9 * 960 * KB / body_pace.BYTES_PER_SECOND
