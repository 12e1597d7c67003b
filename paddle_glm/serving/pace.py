"""What a scheduler's own timing tells: the size of pieces of prompts, and how long the queue takes."""

import math
import statistics
from collections import deque

# A piece of a prompt may take as long as so many decoding steps; with the step itself, answers wait for 2.5.
PIECE_STEPS = 1.5
MIN_PIECE, MAX_PIECE = 8, 512
_RECENT = 32
# A longer wait in the queue is refused: the package openai gives a request up after ten minutes.
MAX_WAIT_SECONDS = 600.0


class PieceSize:
    """How many tokens of prompts to read between two tokens of running answers."""

    def __init__(self, fixed: int | None = None) -> None:
        """fixed: so many columns of each prompt; None: what takes at most `PIECE_STEPS` decoding steps."""
        self._fixed = fixed
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._tokens = MIN_PIECE  # of the next piece

    def columns(self, rows: int) -> int:
        """Columns of a piece for so many prompts that are read together."""
        return self._fixed or max(1, self._tokens // rows)

    def on_step(self, seconds: float) -> None:
        """The running answers' last decoding step took so long."""
        self._steps.append(seconds)

    def on_piece(self, tokens: int, seconds: float) -> None:
        """So many tokens were read together."""
        if not self._steps or tokens < MIN_PIECE:
            return
        # A piece takes a + b * tokens; repeated, this rule ends where that is the time allowed.
        allowed = PIECE_STEPS * statistics.median(self._steps)
        wanted = int(tokens * allowed / max(seconds, 1e-9))
        self._tokens = min(max(wanted, MIN_PIECE), 2 * self._tokens, MAX_PIECE)


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
