"""When one rank of a distributed run fails, all ranks end and say which one and why.

Every rank keeps a TCP connection to rank 0, over which a thread says how far it is. The connection ends with
its process, even with one that is killed; a process that is stopped, or whose machine is gone, falls silent;
one that hangs reports no progress. Rank 0 judges (`watchdog_monitor`) and tells the others; each process
prints the message and ends, since a collective that waits for a lost rank may never return.
"""

import faulthandler
import json
import math
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from paddle_glm.errors import InputError
from paddle_glm.parallel.gloo import own_host
from paddle_glm.parallel.group import world_size
from paddle_glm.parallel.watchdog_monitor import LOST, Monitor

# Outside of training steps: while models are read, checkpoints written, rows evaluated.
PATIENCE_SECONDS = 1800.0
# A rank is slow rather than stuck until it takes this many times its longest step.
_SLOWEST_STEP = 20
# Where a rank waits for others.
_WAITING_FILES = (
    "paddle/distributed/",
    "paddle_glm/parallel/collectives.py",
    "paddle_glm/parallel/shared_memory.py",
    "paddle_glm/parallel/watchdog.py",
    "paddle_glm/training/gradients.py",
    "paddle_glm/training/sharded_",
)
_EXIT_CODE = 1
_started = 0


class Watchdog:
    """This rank's part: reports its progress, and ends the process when rank 0 says so."""

    def __init__(
        self, rank: int, hang_seconds: float, address: tuple[str, int], token: str, advice: str
    ) -> None:
        """hang_seconds: without progress in a training step, or without a word, until a rank counts as lost.

        advice: what to do after a failure, for its message. Raises `OSError` if rank 0 cannot be reached.
        """
        self.rank, self.hang_seconds, self._advice = rank, hang_seconds, advice
        self._ticks, self._ticked, self._limit = 0, time.monotonic(), PATIENCE_SECONDS
        self._working = threading.get_ident()
        self._leaving = False  # this rank has said why it ends, or that it is done
        self._checks = 0
        self._problems: dict[int, str | None] = {}
        self._answered = threading.Condition()
        self._told = threading.Event()  # that this rank has failed, and all ranks know
        self._lock = threading.Lock()
        self._socket = socket.create_connection(address, timeout=hang_seconds)
        self._interval = min(1.0, hang_seconds / 8)
        self._send({"rank": rank, "token": token, "host": socket.gethostname(), "process": os.getpid()})
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def tick(self, longest_step: float | None = None) -> None:
        """Report progress; until the next call the rank may be silent as long as the present work takes.

        longest_step: seconds of this run's longest training step; None: outside of steps.
        """
        self._ticks, self._ticked = self._ticks + 1, time.monotonic()
        self._working = threading.get_ident()
        self._limit = PATIENCE_SECONDS
        if longest_step is not None:
            self._limit = max(self.hang_seconds, _SLOWEST_STEP * longest_step)

    def rest(self) -> None:
        """Report progress; until the next `tick` the rank has nothing to do."""
        self.tick()
        self._limit = math.inf

    def check_equal(self, values: Mapping[str, str]) -> None:
        """Wait until all ranks have given their {name: value}; raises `InputError` where they differ."""
        self._checks += 1
        check = self._checks
        self._send({"check": check, "values": dict(values)})
        with self._answered:
            self._answered.wait_for(lambda: check in self._problems)
            problem = self._problems[check]
        if problem is not None:
            raise InputError(problem)

    def fail(self, error: BaseException) -> None:
        """Tell all ranks that this one ends with `error`; returns when they have been told.

        Where the error only shows that another rank is lost, or another one failed first, the process ends
        here, with the message about that one.
        """
        if not isinstance(error, (InputError, OSError)) and _waits(_innermost_frame(error)):
            time.sleep(self.hang_seconds + 5)  # rank 0 is about to say who is lost
        order = getattr(error, "order", None)
        self._leaving = order is None  # else several ranks fail, and rank 0 says which was the first
        self._send({"failed": _describe(error), "order": order})
        self._told.wait(self.hang_seconds)
        # Ending in order may wait for other ranks, which do not come.
        _exit_after(20)

    def end(self, problem: str, error: BaseException | None = None) -> NoReturn:
        """End this process, from any thread, and all ranks. error: what the problem comes from."""
        self.fail(error or RuntimeError(problem))
        if error is not None and not isinstance(error, InputError):
            traceback.print_exception(error)
        self._end(problem)

    def close(self) -> None:
        """This rank is done: it may end, and the others go on."""
        self._leaving = True
        self._send({"done": True})
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        faulthandler.cancel_dump_traceback_later()

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock, suppress(OSError):  # the thread notices, and says who is lost
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _run(self) -> None:
        received, heard, sent = b"", time.monotonic(), 0.0
        self._socket.settimeout(self._interval)
        while True:
            now = time.monotonic()
            if now - sent >= self._interval and not self._leaving:
                self._send(self._progress(now))
                sent = now
                _exit_after(2 * self.hang_seconds + 5)  # unless this thread comes again
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                if now - heard > self.hang_seconds and not self._leaving:
                    self._end(f"rank 0 has not been heard of for {self.hang_seconds:.0f} s")
                continue
            except OSError:
                chunk = b""
            if not chunk:
                if not self._leaving:
                    self._end(f"rank 0 has {LOST}")
                self._told.set()
                return
            heard = now
            *lines, received = (received + chunk).split(b"\n")
            for line in lines:
                self._handle(json.loads(line))

    def _handle(self, message: dict[str, Any]) -> None:
        if "verdict" in message:
            if not self._leaving:
                self._end(message["verdict"])
            self._told.set()
        if "check" in message:
            with self._answered:
                self._problems[message["check"]] = message["problem"]
                self._answered.notify_all()

    def _progress(self, now: float) -> dict[str, Any]:
        idle = now - self._ticked
        progress: dict[str, Any] = {"ticks": self._ticks, "idle": idle, "limit": self._limit}
        if idle > self._limit / 2:
            frame = sys._current_frames().get(self._working)
            progress |= {"where": _place(frame), "waits": _waits(frame)}
        return progress

    def _end(self, problem: str) -> NoReturn:
        sys.stdout.flush()
        print(
            f"paddle-glm: error: {problem}. All ranks end here; {self._advice}", file=sys.stderr, flush=True
        )
        if self.rank == 0:
            time.sleep(0.5)  # what the monitor has sent arrives
        os._exit(_EXIT_CODE)


@contextmanager
def watch_ranks(
    hang_seconds: float, advice: str = "the same command goes on from the newest checkpoint"
) -> Iterator[Watchdog | None]:
    """Within the block, which all ranks enter and leave, one that fails ends all; None with one process.

    hang_seconds, advice: as for `Watchdog`.
    """
    global _started
    if world_size() == 1:
        yield None
        return
    from paddle.base import core
    from paddle.distributed import get_rank

    store, rank = core.create_or_get_global_tcp_store(), get_rank()
    _started += 1
    key = f"paddle_glm/watchdog/{_started}"
    monitor = None
    if rank == 0:
        token = secrets.token_hex(16)
        monitor = Monitor(world_size(), hang_seconds, token)
        store.set(key, f"{own_host()} {monitor.port} {token}")
    host, port, token = bytes(store.get(key)).decode().split()
    watchdog = Watchdog(rank, hang_seconds, (host, int(port)), token, advice)
    try:
        yield watchdog
    except BaseException as error:
        watchdog.fail(error)
        raise
    watchdog.close()
    if monitor is not None:
        monitor.wait()


def _exit_after(seconds: float) -> None:
    """End the process, with a traceback, even where no Python code can run; the last call counts."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)


def _describe(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    return traceback.format_exception_only(error)[-1].strip()


def _innermost_frame(error: BaseException) -> FrameType | None:
    frame = None
    for frame, _ in traceback.walk_tb(error.__traceback__):  # noqa: B007
        pass
    return frame


def _waits(frame: FrameType | None) -> bool:
    """Whether a thread is where it waits for other ranks."""
    return frame is not None and any(part in frame.f_code.co_filename for part in _WAITING_FILES)


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}, line {frame.f_lineno})"
