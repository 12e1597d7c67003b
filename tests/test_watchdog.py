"""Who is named when ranks are silent, behind, stuck or different; ranks are sockets of this process."""

import json
import socket
import threading
import time

import pytest

from paddle_glm.parallel.watchdog_monitor import Monitor


class Rank:
    """A rank's side of the protocol, by hand."""

    def __init__(self, monitor: Monitor, rank: int, token: str = "token") -> None:
        self.socket = socket.create_connection(("127.0.0.1", monitor.port), timeout=5)
        self.received = self.socket.makefile(encoding="utf-8")
        self.send(rank=rank, token=token, host=f"host{rank}", process=rank)

    def send(self, **message: object) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, kind: str) -> str | None:
        """The next message of a kind; raises `StopIteration` at the end."""
        found: str | None = next(message for line in self.received if kind in (message := json.loads(line)))[
            "verdict" if kind == "verdict" else "problem"
        ]
        return found


def start(degree: int, hang_seconds: float = 30.0) -> list[Rank]:
    monitor = Monitor(degree, hang_seconds, "token")
    return [Rank(monitor, rank) for rank in range(degree)]


def progress(ticks: int, idle: float, waits: bool) -> dict[str, object]:
    return {"ticks": ticks, "idle": idle, "limit": 4.0, "where": f"place {ticks}", "waits": waits}


@pytest.mark.parametrize(
    ("ranks", "named"),
    [
        ([(7, 9, True), (7, 9, False), (7, 9, True)], "rank 1 (host1, process 1)"),
        ([(8, 9, False), (8, 9, False), (7, 9, False)], "rank 2 (host2, process 2)"),
        (
            [(7, 9, True), (7, 9, True), (8, 9, True)],
            "rank 0 (host0, process 0), rank 1 (host1, process 1) hangs",
        ),
    ],
)
def test_the_rank_that_others_wait_for_hangs(ranks, named):
    found = start(3)
    for rank, values in zip(found, ranks, strict=True):
        rank.send(**progress(*values))
    verdict = found[0].receive("verdict")
    assert (
        verdict is not None
        and verdict.startswith(named)
        and "hangs: no progress for 9 s, in place" in verdict
    )


def test_a_slow_rank_is_waited_for():
    ranks = start(2)
    ranks[0].send(**progress(8, 9, True))
    ranks[1].send(**progress(7, 3, False))
    ranks[1].socket.shutdown(socket.SHUT_RDWR)
    assert "rank 1 (host1, process 1) has ended without a word" in str(ranks[0].receive("verdict"))


def test_a_silent_rank():
    ranks = start(2, hang_seconds=0.8)
    for _ in range(6):
        ranks[0].send(**progress(1, 0, False))
        time.sleep(0.2)
    assert "rank 1 (host1, process 1) has not been heard of" in str(ranks[0].receive("verdict"))


def test_the_first_of_several_failures():
    ranks = start(2)
    ranks[0].send(failed="its loss is NaN in step 5", order=5)
    ranks[1].send(failed="its loss is NaN in step 4", order=4)
    assert ranks[0].receive("verdict") == "rank 1 (host1, process 1) has failed: its loss is NaN in step 4"


def test_values_of_the_minority_are_named():
    ranks = start(3)
    for rank, seed in zip(ranks, "121", strict=True):
        rank.send(check=1, values={"--seed": seed, "--rows": "9"})
    problem = ranks[2].receive("check")
    assert problem == "rank 1 (host1, process 1) differs from rank 0 (host0, process 0) in --seed: 2, not 1"
    for rank in ranks:
        rank.send(check=2, values={"--seed": "1"})
    assert ranks[2].receive("check") is None


def test_strangers_are_not_heard():
    monitor = Monitor(1, 30.0, "token")
    stranger = Rank(monitor, 0, token="another")
    with pytest.raises(StopIteration):
        stranger.receive("verdict")


def test_it_ends_when_all_are_done(monkeypatch):
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    monitor = Monitor(2, 30.0, "token")
    ranks = [Rank(monitor, rank) for rank in range(2)]
    for rank in ranks:
        rank.send(**progress(1, 0, False))
        rank.send(done=True)
    monitor.wait()
    assert errors == []
