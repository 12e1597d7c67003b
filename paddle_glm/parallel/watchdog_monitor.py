"""Rank 0's side of `watchdog`: hears all ranks, and decides when the run has failed."""

import hmac
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# Numbers that are not finite spread to other ranks: the rank that had them in the earliest step is named.
_GRACE_SECONDS = 1.0
LOST = "ended without a word: killed (out of memory?) or crashed"


@dataclass
class _Member:
    """What is known of one rank."""

    rank: int
    heard: float
    connection: socket.socket | None = None
    name: str = ""
    done: bool = False
    failed: bool = False
    progress: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"rank {self.rank}{self.name}"


class Monitor:
    """A thread that listens on `port` and ends the run when a rank fails."""

    def __init__(self, degree: int, hang_seconds: float, token: str) -> None:
        """token: what ranks of this run send first; other connections are refused."""
        self._hang_seconds, self._token = hang_seconds, token
        self._members = [_Member(rank, time.monotonic()) for rank in range(degree)]
        self._values: dict[int, dict[int, dict[str, str]]] = {}
        self._failure: tuple[float, float, str] | None = None  # when to announce it, its order, the message
        self._listener = socket.create_server(("", 0), backlog=degree)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._buffers: dict[socket.socket, bytes] = {}
        self._thread = threading.Thread(target=self._run, name="watchdog monitor", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all ranks are done."""
        self._thread.join()

    def _run(self) -> None:
        interval = min(1.0, self._hang_seconds / 8)
        told = 0.0
        while not all(member.done and not member.failed for member in self._members):
            for key, _ in self._selector.select(interval / 2):
                if key.fileobj is self._listener:
                    connection, _ = self._listener.accept()
                    self._selector.register(connection, selectors.EVENT_READ)
                    self._buffers[connection] = b""
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]
            now = time.monotonic()
            if now - told >= interval:
                told = now
                self._tell({"alive": True})
            self._judge(now)
        self._listener.close()

    def _read(self, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(65536)
        except OSError:
            chunk = b""
        *lines, self._buffers[connection] = (self._buffers[connection] + chunk).split(b"\n")
        for line in lines:
            self._handle(connection, json.loads(line))
        if not chunk:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._buffers[connection]
        connection.close()
        member = self._member_of(connection)
        if member is not None:
            member.connection = None
            if not member.done:
                self._fail(f"{member} has {LOST}")

    def _member_of(self, connection: socket.socket) -> _Member | None:
        return next((member for member in self._members if member.connection is connection), None)

    def _handle(self, connection: socket.socket, message: dict[str, Any]) -> None:
        member = self._member_of(connection)
        if member is None:
            if not hmac.compare_digest(str(message.get("token")), self._token):
                self._drop(connection)
                return
            member = self._members[message["rank"]]
            member.connection = connection
            member.name = f" ({message['host']}, process {message['process']})"
        member.heard = time.monotonic()
        if "ticks" in message:
            member.progress = message
        elif "check" in message:
            self._compare(message["check"], member.rank, message["values"])
        elif "failed" in message:
            member.done = member.failed = True
            self._fail(f"{member} has failed: {message['failed']}", message["order"])
        elif "done" in message:
            member.done = True

    def _compare(self, check: int, rank: int, values: dict[str, str]) -> None:
        """Answer when all ranks have given their values."""
        given = self._values.setdefault(check, {})
        given[rank] = values
        if len(given) < len(self._members):
            return
        ranks = [given[rank] for rank in range(len(self._members))]
        problems = [self._difference(name, [one.get(name, "none") for one in ranks]) for name in ranks[0]]
        self._tell({"check": check, "problem": "; ".join(filter(None, problems)) or None})

    def _difference(self, name: str, values: Sequence[str]) -> str:
        """What is wrong with one value of each rank; nothing where they are the same."""
        common = max(values, key=values.count)
        odd = [member for member, value in zip(self._members, values, strict=True) if value != common]
        if not odd:
            return ""
        usual, other = self._members[values.index(common)], values[odd[0].rank]
        return f"{_enumerate(odd)} differs from {usual} in {name}: {other}, not {common}"

    def _judge(self, now: float) -> None:
        if self._failure is None:
            self._look_for_lost_ranks(now)
        elif now >= self._failure[0]:
            self._tell({"verdict": self._failure[2]})
            if self._members[0].done and not self._members[0].failed:
                # The watchdog of this process has left; it would have ended it.
                print(f"paddle-glm: error: {self._failure[2]}", file=sys.stderr, flush=True)
                time.sleep(1)
                os._exit(1)
            self._failure = (now + 1, self._failure[1], self._failure[2])

    def _look_for_lost_ranks(self, now: float) -> None:
        members = [member for member in self._members if not member.done]
        if silent := [member for member in members if now - member.heard > self._hang_seconds]:
            self._fail(
                f"{_enumerate(silent)} has not been heard of for {self._hang_seconds:.0f} s: the process is "
                "stopped, or its machine or the network is down"
            )
            return
        if not members or not all(member.progress for member in members):
            return
        # All take the same steps, so the one that is stuck is behind, or the only one that waits for nobody.
        least = min(member.progress["ticks"] for member in members)
        behind = [member for member in members if member.progress["ticks"] == least]
        stuck = [member for member in behind if not member.progress.get("waits")] or behind
        if all(member.progress["idle"] > member.progress["limit"] for member in stuck):
            first = stuck[0].progress
            self._fail(
                f"{_enumerate(stuck)} hangs: no progress for {first['idle']:.0f} s, in "
                f"{first.get('where', 'an unknown place')}"
            )

    def _fail(self, message: str, order: float | None = None) -> None:
        """order: of failures with one, the least is announced."""
        if self._failure is None:
            grace = 0.0 if order is None else _GRACE_SECONDS
            self._failure = (time.monotonic() + grace, order or 0, message)
        elif order is not None and order < self._failure[1]:
            self._failure = (self._failure[0], order, message)

    def _tell(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        for member in reversed(self._members):  # rank 0 last: it may end this process at once
            if member.connection is not None:
                with suppress(OSError):  # noticed when it is read
                    member.connection.sendall(data)


def _enumerate(members: Sequence[_Member]) -> str:
    return ", ".join(map(str, members))
