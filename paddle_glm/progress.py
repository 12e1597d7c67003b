"""Progress of long operations on standard error."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

DELAY_SECONDS = 5.0  # nothing is shown of shorter operations
_LINE_INTERVAL = 15.0  # seconds between log lines without a terminal
_POLL_INTERVAL = 1.0  # seconds between calls of `polled_progress`'s function

Progress = Callable[[int], Any]


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Progress]:
    """Yield a function to be called with the number of bytes just processed, of `total`.

    After `DELAY_SECONDS` a progress bar is shown on standard error, or log lines if that is not a terminal.
    In a distributed run only rank 0 shows progress.
    """
    if os.environ.get("PADDLE_TRAINER_ID", "0") != "0":
        yield lambda done: None
    elif sys.stderr.isatty():
        yield from _tqdm_bar(label, total)
    else:
        yield _LogLines(label, total, sys.stderr)


@contextmanager
def polled_progress(label: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Show the progress of a library call inside the block that reports none itself.

    done: returns the bytes processed so far; a thread calls it once a second, if the library releases the
    GIL.
    """
    ended = threading.Event()

    def poll(progress: Progress) -> None:
        shown = 0
        while not ended.wait(_POLL_INTERVAL):
            now = min(max(done(), shown), total)
            progress(now - shown)
            shown = now

    with progress_bar(label, total) as progress:
        watcher = threading.Thread(target=poll, args=(progress,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _tqdm_bar(label: str, total: int) -> Iterator[Progress]:
    from tqdm import tqdm

    with tqdm(
        total=total, desc=label, unit="B", unit_scale=True, delay=DELAY_SECONDS, mininterval=0.5
    ) as bar:
        yield bar.update


class _LogLines:
    """Print a line after `DELAY_SECONDS`, and then one per `_LINE_INTERVAL`."""

    def __init__(self, label: str, total: int, stream: TextIO) -> None:
        self._label, self._total, self._stream = label, total, stream
        self._done, self._next = 0, time.monotonic() + DELAY_SECONDS

    def __call__(self, done: int) -> None:
        self._done += done
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + _LINE_INTERVAL
        percent = 100 * self._done // max(self._total, 1)
        print(f"{self._label}: {percent}% of {self._total / 1e9:.1f} GB", file=self._stream, flush=True)
