"""What a scheduler's own timing tells: the size of pieces of prompts, and how long the queue takes."""

import math
import statistics
from bisect import bisect_right
from collections import deque

# A piece of a prompt may take as long as so many decoding steps (with the step itself, answers wait for 2.5),
PIECE_STEPS = 1.5
# or as long as the smallest piece and a bit, since small pieces waste time.
PIECE_SLACK = 1.1
PIECE_TOKENS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# A piece while nothing runs, so that who comes meanwhile waits no longer,
IDLE_SECONDS = 1.0
# but for pieces that take so much more time for a token than those twice as large.
IDLE_WASTE = 1.05
IDLE_TOKENS = 32  # the smallest; others are twice as large as the one before
_RECENT = 32
# A longer wait in the queue is refused: the package openai gives a request up after ten minutes.
MAX_WAIT_SECONDS = 600.0


class PieceSize:
    """How many tokens of prompts to read between two tokens of running answers.

    The largest of `PIECE_TOKENS` that was fast enough when it was last tried.
    """

    def __init__(self, fixed: int | None = None) -> None:
        """fixed: so many columns of each prompt; None: what takes at most `PIECE_STEPS` decoding steps."""
        self._fixed = fixed
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._size = PIECE_TOKENS.index(8)  # of the next piece, as a place there
        self._seconds: dict[int, float] = {}  # by size
        self._pieces = 0

    def columns(self, rows: int) -> int:
        """Columns of a piece for so many prompts that are read together."""
        return self._fixed or -(-PIECE_TOKENS[self._size] // rows)

    def on_step(self, seconds: float) -> None:
        """The running answers' last decoding step took so long."""
        self._steps.append(seconds)

    def on_piece(self, tokens: int, seconds: float) -> None:
        """So many tokens were read together."""
        if not self._steps or tokens < PIECE_TOKENS[0]:
            return
        self._pieces += 1
        if self._pieces % (2 * _RECENT) == 0:
            self._seconds.clear()  # prompts get longer, machines busier
        size = bisect_right(PIECE_TOKENS, tokens) - 1
        # A larger piece that took less belongs to other times.
        self._seconds = {one: time for one, time in self._seconds.items() if one < size or time > seconds}
        self._seconds[size] = seconds
        allowed = PIECE_STEPS * statistics.median(self._steps)
        if 0 in self._seconds:  # it may have been disturbed, and another one be faster
            allowed = max(allowed, PIECE_SLACK * min(self._seconds.values()))
        self._size = max((one for one, time in self._seconds.items() if time <= allowed), default=0)
        if self._size in self._seconds and self._size + 1 not in self._seconds:
            self._size = min(self._size + 1, len(PIECE_TOKENS) - 1)


class IdlePieceSize:
    """How many tokens of prompts to read at once while nothing runs.

    As many as take `IDLE_SECONDS`, or more where smaller pieces would waste time.
    """

    def __init__(self, fixed: int | None = None) -> None:
        """fixed: as for `PieceSize`."""
        self._fixed = fixed
        self._size = 3  # of the next piece: IDLE_TOKENS doubled so many times
        self._seconds: dict[int, float] = {}  # of IDLE_TOKENS, as read in a piece of this size
        self._pieces = 0

    def columns(self, rows: int) -> int:
        """Columns of a piece for so many prompts that are read together."""
        return self._fixed or -(-(IDLE_TOKENS << self._size) // rows)

    def on_piece(self, tokens: int, seconds: float) -> None:
        """So many tokens were read together."""
        measured = self._size
        if 2 * tokens < IDLE_TOKENS << measured:
            return  # short prompts and ends of prompts tell little
        self._pieces += 1
        if self._pieces % (2 * _RECENT) == 0:
            self._seconds.clear()
        self._seconds[measured] = seconds * IDLE_TOKENS / tokens
        times = {size: each * (1 << size) for size, each in sorted(self._seconds.items())}
        # A larger piece that took less belongs to other times.
        for size in [size for size in times if size > measured and times[size] < times[measured]]:
            del self._seconds[size], times[size]
        size = max((one for one, time in times.items() if time <= IDLE_SECONDS), default=min(times))
        while self._seconds.get(size + 1, math.inf) * IDLE_WASTE < self._seconds[size]:
            size += 1
        if times[size] > IDLE_SECONDS and size and size - 1 not in times:
            size -= 1
        elif size + 1 not in times:
            size += 1
        self._size = size


class QueueWait:
    """How long requests wait, from how often running ones ended while others waited."""

    def __init__(self) -> None:
        self._intervals: deque[float] = deque(maxlen=_RECENT)
        self._since: float | None = None

    def on_ended(self, requests: int, now: float, waiting: bool) -> None:
        """So many requests ended; waiting: whether others wait now."""
        if self._since is not None:
            self._intervals.extend([(now - self._since) / requests] * min(requests, _RECENT))
        self._since = now if waiting else None

    def seconds(self, requests: int) -> float | None:
        """Until so many of those that wait have started; None if unknown."""
        return requests * statistics.mean(self._intervals) if self._intervals else None

    def retry_after(self, requests: int) -> int:
        """Whole seconds, at least 1 and at most `MAX_WAIT_SECONDS`, until as many have started."""
        return math.ceil(min(max(self.seconds(requests) or 0.0, 1.0), MAX_WAIT_SECONDS))
