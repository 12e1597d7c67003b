"""How far work has come, where it takes long."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Seconds of work that nobody needs to be told of.
DELAY_SECONDS = 5.0
# Seconds between lines where there is no terminal.
_LINE_INTERVAL = 15.0
# Seconds between two looks at work that says nothing of itself.
_POLL_INTERVAL = 1.0

Progress = Callable[[int], Any]


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Progress]:
    """Gives a function to be called with the bytes that have just been done, of `total`.

    Once the work has taken `DELAY_SECONDS` seconds, a bar on standard error shows how far it is; a plain line
    now and then where that is no terminal. Of several processes of one job the first alone shows anything.
    """
    if os.environ.get("PADDLE_TRAINER_ID", "0") != "0":
        yield lambda done: None
    elif sys.stderr.isatty():
        yield from _tqdm_bar(what, total)
    else:
        yield _LogLines(what, total, sys.stderr)


@contextmanager
def polled_progress(what: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Shows how far the work inside is, which is one call of a library that says nothing meanwhile.

    done: gives the bytes so far; a thread asks it once a second, as often as the library lets Python run.
    """
    ended = threading.Event()

    def poll(progress: Progress) -> None:
        shown = 0
        while not ended.wait(_POLL_INTERVAL):
            now = min(max(done(), shown), total)
            progress(now - shown)
            shown = now

    with progress_bar(what, total) as progress:
        watcher = threading.Thread(target=poll, args=(progress,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _tqdm_bar(what: str, total: int) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit="B", unit_scale=True, delay=DELAY_SECONDS, mininterval=0.5) as bar:
        yield bar.update


class _LogLines:
    """Writes a line for a log after `DELAY_SECONDS` seconds, and again each `_LINE_INTERVAL`."""

    def __init__(self, what: str, total: int, stream: TextIO) -> None:
        self._what, self._total, self._stream = what, total, stream
        self._done, self._next = 0, time.monotonic() + DELAY_SECONDS

    def __call__(self, done: int) -> None:
        self._done += done
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + _LINE_INTERVAL
        share = 100 * self._done // max(self._total, 1)
        print(f"{self._what}: {share}% of {self._total / 1e9:.1f} GB", file=self._stream, flush=True)
