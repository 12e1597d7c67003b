"""Rank 0 announces its calls; a thread of this process plays the other rank."""

import queue
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from paddle_glm.parallel import calls
from paddle_glm.parallel.calls import CallError, CallLeader, connect_ranks, follow_calls


class Store:
    """Paddle's, within this process."""

    def __init__(self):
        self._values = queue.Queue()

    def set(self, key, value):
        self._values.put(value.encode())

    def get(self, key):
        return self._values.get(timeout=30)


class Watchdog:
    """Ends nothing but the test's call."""

    def tick(self):
        pass

    def rest(self):
        pass

    def end(self, problem, error=None):
        raise SystemExit(problem)


class Kept:
    """What a call leaves on every rank."""

    living = 0

    def __init__(self, value):
        self.value = value
        Kept.living += 1

    def __del__(self):
        Kept.living -= 1

    def release(self):
        self.value = -1


class Model:
    """Remembers its calls. error: what `note` raises here."""

    def __init__(self, error=None):
        self.seen, self.error = [], error

    def note(self, *args, **keywords):
        self.seen.append((*args, keywords))
        if self.error is not None:
            raise self.error
        return np.zeros(2)

    def keep(self, value):
        return Kept(value)

    def use(self, kept):
        self.note(kept.value)

    def own(self, value):
        raise AssertionError("concerns rank 0 alone")


@contextmanager
def two_ranks(monkeypatch, own, other):
    """Announces the calls of `own`; gives the error that ended the other rank, once the block has ended."""
    monkeypatch.setattr(calls, "ALIKE_SECONDS", 0.3)
    monkeypatch.setattr(calls, "_VERDICT_SECONDS", 0.1)
    monkeypatch.setattr(calls, "own_host", lambda: "127.0.0.1")
    store, ended = Store(), []

    def follow():
        [connection] = connect_ranks(1, 2, store)
        try:
            follow_calls(connection, other, Watchdog())
        except CallError as error:
            ended.append(error)
        connection.close()

    thread = threading.Thread(target=follow)
    thread.start()
    leader = CallLeader(connect_ranks(0, 2, store), Watchdog())
    leader.announce(own, local={"own": lambda value: value})
    yield ended
    leader.close()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_all_ranks_make_the_same_calls(monkeypatch):
    own, other = Model(), Model()
    ids = np.arange(6, dtype=np.int64).reshape(2, 3)
    with two_ranks(monkeypatch, own, other):
        assert own.note(ids, np.int64(7), ["a", None], mask=ids > 2, 名="文").shape == (2,)
        kept = own.keep(5)
        own.use(kept)
        assert own.own(3) == 3
        again = own.keep(6)
        assert Kept.living == 4
        again.release()
        own.use(again)
        del kept, again
        own.use(own.keep(7))
        own.note()
    assert Kept.living == 0
    (sent, number, words, keywords), *rest = other.seen
    assert sent.dtype == np.int64 and (sent == ids).all() and keywords["mask"].dtype == np.bool_
    assert (keywords["mask"] == (ids > 2)).all() and keywords["名"] == "文"
    assert (number, words) == (7, ["a", None])
    assert rest == own.seen[1:] == [(5, {}), (-1, {}), (7, {}), ({},)]


def test_a_call_that_fails_everywhere_fails_and_the_next_one_does_not(monkeypatch):
    own, other = Model(ValueError("no room")), Model(ValueError("no room"))
    with two_ranks(monkeypatch, own, other) as ended:
        with pytest.raises(ValueError, match="no room"):
            own.note(1)
        own.error = other.error = None
        threading.Event().wait(0.6)  # all know that all have failed
        own.note(2)
    assert not ended and other.seen == [(1, {}), (2, {})]


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        (None, ValueError("here"), "note has given ValueError: here on rank 1, a result on rank 0"),
        (ValueError("there"), None, "note has given a result on rank 1, ValueError: there on rank 0"),
        (
            ValueError("there"),
            KeyError("x"),
            "note has given KeyError: 'x' on rank 1, ValueError: there on rank 0",
        ),
    ],
)
def test_ranks_that_do_not_agree_end(monkeypatch, own, other, message):
    model = Model(own)
    with (
        two_ranks(monkeypatch, model, Model(other)) as ended,
        pytest.raises(SystemExit, match=message),
    ):
        model.note()
    if other is not None:
        assert "a call failed, but not on rank 0" in str(ended[0])


def test_strangers_are_not_ranks(monkeypatch):
    class Noisy(Store):
        def set(self, key, value):
            host, port, _ = value.split()
            for text in (b"GET / HTTP/1.1\r\n\r\n", b'{"token": "x", "rank": 1}\n', b"[1]\n", b""):
                with socket.create_connection((host, int(port))) as stranger:
                    stranger.sendall(text)
            super().set(key, value)

    monkeypatch.setitem(globals(), "Store", Noisy)
    own, other = Model(), Model()
    with two_ranks(monkeypatch, own, other):
        own.note(1)
    assert other.seen == own.seen
