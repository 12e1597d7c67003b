"""A bar appears where work takes long, and only there."""

import io
import sys
import threading

import pytest

from paddle_glm import progress
from paddle_glm.progress import polled_progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.delenv("PADDLE_TRAINER_ID", raising=False)
    return clock


def test_lines_for_a_log(now, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with progress_bar("opening model", 4_000_000_000) as done:
        for seconds in (3, 3, 3, 20):
            now[0] += seconds
            done(1_000_000_000)
    assert stream.getvalue() == "opening model: 50% of 4.0 GB\nopening model: 100% of 4.0 GB\n"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_short_work_shows_nothing(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := stream())
    with progress_bar("opening model", 100) as done:
        done(100)
    assert shown.getvalue() == ""


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "DELAY_SECONDS", 1e-9)
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    with progress_bar("opening model", 100) as done:
        done(100)
    assert "opening model" in shown.getvalue() and "100%" in shown.getvalue()


def test_other_processes_of_a_job_show_nothing(now, monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    with progress_bar("opening model", 100) as done:
        now[0] += 100
        done(100)
    assert shown.getvalue() == ""


def test_work_that_says_nothing_is_watched(monkeypatch):
    """As loading a graph is; what it has done never goes back, nor beyond the whole."""
    monkeypatch.setattr(progress, "DELAY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_POLL_INTERVAL", 0.001)
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.0)
    monkeypatch.delenv("PADDLE_TRAINER_ID", raising=False)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    found, seen = iter([10, 60, 40, 500]), threading.Event()

    def done() -> int:
        value = next(found, None)
        if value is None:
            seen.set()
        return 500 if value is None else value

    with polled_progress("opening graph", 100, done):
        assert seen.wait(10)
    shares = [int(line.split()[2].rstrip("%")) for line in stream.getvalue().splitlines()]
    assert shares[:4] == [10, 60, 60, 100] and set(shares[4:]) <= {100}
    assert not any("poll" in one.name for one in threading.enumerate())
