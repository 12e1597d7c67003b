"""Rank 0 tells the other ranks which methods to call, so that all make the same calls in the same order.

Over TCP rather than by a collective: a rank that waits for hours uses no processor and runs into no timeout,
and a rank that fails can say so while the others still compute.
"""

import hmac
import json
import secrets
import socket
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import getattr_static, isfunction
from typing import Any, NoReturn

import numpy as np

from paddle_glm.parallel.gloo import own_host
from paddle_glm.parallel.watchdog import Watchdog

# A rank that failed waits so long for the others to fail in the same way.
ALIKE_SECONDS = 10.0
# A connection ends a moment before the watchdog knows why.
_VERDICT_SECONDS = 10.0


class CallError(Exception):
    """Ranks no longer agree on what has been computed."""


class Connection:
    """Messages, a line of JSON each, between rank 0 and another rank."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # routers forget silent connections
        self._socket, self._received = connected, b""

    def send(self, message: Mapping[str, Any]) -> None:
        self.send_line(json.dumps(message))

    def send_line(self, message: str) -> None:
        """A message that is JSON already."""
        with suppress(OSError):  # noticed by `receive`
            self._socket.sendall(message.encode() + b"\n")

    def receive(
        self, decode: Callable[[dict[str, Any]], Any] | None = None, timeout: float | None = None
    ) -> Any:
        """The next message; None once the other rank is gone. Raises `TimeoutError`."""
        self._socket.settimeout(timeout)
        parts = [self._received]
        while b"\n" not in parts[-1]:
            try:
                chunk = self._socket.recv(1 << 20)
            except TimeoutError:
                self._received = b"".join(parts)
                raise
            except OSError:
                chunk = b""
            if not chunk:
                return None
            parts.append(chunk)
        line, _, self._received = b"".join(parts).partition(b"\n")
        return json.loads(line, object_hook=decode)

    def close(self) -> None:
        self._socket.close()


def connect_ranks(rank: int, degree: int, store: Any) -> list[Connection]:
    """Connections of rank 0 to ranks 1, 2, ..., or the one of another rank to rank 0.

    store: Paddle's TCPStore of these ranks.
    """
    key = "paddle_glm/calls"
    if rank:
        host, port, token = bytes(store.get(key)).decode().split()
        connection = Connection(socket.create_connection((host, int(port))))
        connection.send({"token": token, "rank": rank})
        return [connection]
    token = secrets.token_hex(16)
    connections: dict[int, Connection] = {}
    with socket.create_server((own_host(), 0), backlog=degree + 16) as listener:
        store.set(key, f"{own_host()} {listener.getsockname()[1]} {token}")
        while len(connections) < degree - 1:
            connection = Connection(listener.accept()[0])
            with suppress(TimeoutError, ValueError, AttributeError):  # a stranger
                hello = connection.receive(timeout=10.0) or {}
                if hmac.compare_digest(str(hello.get("token")), token):
                    connections[hello["rank"]] = connection
    return [connections[other] for other in range(1, degree)]


class CallLeader:
    """Rank 0's side: announces each call, makes it too, and waits until all ranks have made it.

    Arguments may be numbers, strings, None, lists, NumPy arrays, and results of earlier calls, which all
    ranks keep as long as rank 0 does. A result's `release` is such a call too.
    """

    def __init__(self, connections: Sequence[Connection], watchdog: Watchdog) -> None:
        self._connections, self._watchdog = connections, watchdog
        self._lock, self._inside = threading.RLock(), False
        self._calls = 0
        self._numbers: dict[int, int] = {}  # id of a result -> number of its call
        self._dropped: deque[int] = deque()  # numbers of results that rank 0 no longer has

    def announce(self, target: Any, local: Mapping[str, Callable[..., Any]]) -> None:
        """From now on all ranks make each call of a public method of `target`, but those within a call.

        The other ranks give `follow_calls` their counterpart of it. local: what takes a method's place, by
        name, and concerns rank 0 alone.
        """
        for name in dir(type(target)):
            if not name.startswith("_") and isfunction(getattr_static(type(target), name)):
                method = getattr(target, name)
                setattr(target, name, local.get(name) or self._announced(None, name, method))
        self._watchdog.rest()

    def _announced(self, number: int | None, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """number: of the call whose result has the method; None: what was announced has it."""

        def call(*args: Any, **keywords: Any) -> Any:
            with self._lock:
                if self._inside:  # part of a call that was announced
                    return method(*args, **keywords)
                self._inside = True
                try:
                    return self._call(number, name, method, args, keywords)
                finally:
                    self._inside = False

        return call

    def _call(
        self,
        number: int | None,
        name: str,
        method: Callable[..., Any],
        args: Sequence[Any],
        keywords: Mapping[str, Any],
    ) -> Any:
        self._watchdog.tick()
        dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
        message = {"of": number, "call": name, "args": args, "keywords": keywords, "dropped": dropped}
        line = json.dumps(message, default=self._encode)
        self._calls += 1
        for connection in self._connections:
            connection.send_line(line)
        result, error = None, None
        try:
            result = method(*args, **keywords)
        except Exception as raised:
            error = raised
        self._compare(name, error)
        self._watchdog.rest()
        if error is not None:
            traceback.clear_frames(error.__traceback__)  # they hold what the other ranks drop now
            raise error
        if not _is_plain(result):
            self._number(result)
        return result

    def _compare(self, name: str, error: Exception | None) -> None:
        """Return where all ranks have made the call, or all have failed alike; else end all ranks."""
        own = None if error is None else _text(error)
        for rank, connection in enumerate(self._connections, 1):
            try:
                reply = connection.receive(timeout=None if error is None else ALIKE_SECONDS)
            except TimeoutError:
                self._end(f"{name} has failed on rank 0 alone: {own}", error)
            if reply is None:
                time.sleep(_VERDICT_SECONDS)
                self._end(f"rank {rank} has closed its connection")
            if reply["error"] != own:
                there, here = (text or "a result" for text in (reply["error"], own))
                self._end(f"{name} has given {there} on rank {rank}, {here} on rank 0", error)
        if error is not None:
            for connection in self._connections:
                connection.send({"alike": True})

    def _number(self, result: Any) -> None:
        key, number = id(result), self._calls

        def drop() -> None:
            self._numbers.pop(key, None)
            self._dropped.append(number)

        self._numbers[key] = number
        if hasattr(result, "release"):
            release = partial(type(result).release, weakref.proxy(result))  # no circle, which lives longer
            result.release = self._announced(number, "release", release)
        weakref.finalize(result, drop).atexit = False

    def _encode(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"array": value.tolist(), "dtype": str(value.dtype)}
        if isinstance(value, np.generic):
            return value.item()
        return {"result": self._numbers[id(value)]}

    def _end(self, problem: str, error: Exception | None = None) -> NoReturn:
        self._watchdog.end(problem, error)

    def close(self) -> None:
        """Tell the other ranks that no call follows; waits for the call that is being made."""
        with self._lock:
            for connection in self._connections:
                connection.send({"end": True})


def follow_calls(connection: Connection, target: Any, watchdog: Watchdog) -> None:
    """Make the calls of `target` that rank 0 announces, until it ends.

    Raises `CallError` where one failed here and not on rank 0.
    """
    results: dict[int, Any] = {}

    def decode(value: dict[str, Any]) -> Any:
        if "array" in value:
            return np.array(value["array"], dtype=value["dtype"])
        return results[value["result"]] if "result" in value else value

    number = 0
    watchdog.rest()
    while (message := _next_call(connection, decode)) is not None:
        number += 1
        watchdog.tick()
        for dropped in message["dropped"]:
            del results[dropped]
        error = None
        try:
            owner = target if message["of"] is None else results[message["of"]]
            result = getattr(owner, message["call"])(*message["args"], **message["keywords"])
            if not _is_plain(result):
                results[number] = result
        except Exception as raised:
            error = raised
        connection.send({"error": None if error is None else _text(error)})
        watchdog.rest()
        if error is not None:
            _wait_until_alike(connection, error)
        message = owner = result = error = None  # results live until rank 0 has dropped them, no longer


def _next_call(connection: Connection, decode: Callable[[dict[str, Any]], Any]) -> Any:
    """The message of rank 0's next call; None at the end."""
    message = connection.receive(decode)
    if message is None:
        time.sleep(_VERDICT_SECONDS)
        raise CallError("rank 0 has closed its connection")
    return None if "end" in message else message


def _wait_until_alike(connection: Connection, error: Exception) -> None:
    try:
        message = connection.receive(timeout=ALIKE_SECONDS)
    except TimeoutError:
        message = None
    if message is None or "alike" not in message:
        raise CallError(f"a call failed, but not on rank 0: {_text(error)}") from error
    traceback.clear_frames(error.__traceback__)


def _is_plain(result: Any) -> bool:
    """Whether a result is a value, which the other ranks need not keep."""
    return result is None or isinstance(result, bool | int | float | str | tuple | list | np.ndarray)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
