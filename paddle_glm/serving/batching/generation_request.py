"""A request to the scheduler, and who hears of it."""

import time
from dataclasses import dataclass, field
from typing import Protocol

from paddle_glm.generation.loop import GenerationState
from paddle_glm.generation.sampling import TokenLogprobs


class QueueFullError(Exception):
    """The queue is full, or too slow; the request can be retried after so many seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SchedulerClosedError(Exception):
    """The scheduler was closed before the answer was complete."""


class TokenListener(Protocol):
    """Receives an answer; called on the scheduler's thread, so calls must not block."""

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        """Receive a token, including end tokens; return False to end the answer.

        logprobs: the token's, if the request asked for them.
        """

    def on_finished(self) -> None:
        """Called after the last token."""

    def on_failed(self, error: Exception) -> None:
        """Called instead of `on_finished` if generation fails."""


class SchedulerObserver:
    """Is told what a scheduler does, on its thread; does nothing with it."""

    def on_prompt(self, tokens: int) -> None:
        """A prompt was read."""

    def on_reused(self, tokens: int) -> None:
        """So many of a prompt's tokens are not read again."""

    def on_preempted(self) -> None:
        """A running request gave its memory up and waits to be computed again."""

    def on_token(self, seconds: float, is_first: bool) -> None:
        """A token was generated, so long after the request's arrival, or after the token before it."""


@dataclass(eq=False)
class GenerationRequest:
    """A request with its prompt (token ids), state and listener.

    top_logprobs: number of alternatives to each token's log probability; None: no log probabilities.
    adapter: that answers; None: the model alone. prefix_length: columns of the cache before the tokens.
    """

    prompt: list[int]
    listener: TokenListener
    state: GenerationState
    top_logprobs: int | None = None
    adapter: str | None = None
    prefix_length: int = 0
    cancelled: bool = field(default=False, init=False)
    last_event: float = field(default_factory=time.monotonic, init=False)  # its arrival or last token
    tokens: list[int] = field(init=False)  # of the prompt and the answer so far

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def columns(self) -> int:
        """Of the cache, that the tokens so far take."""
        return self.prefix_length + len(self.tokens)

    def cancel(self) -> None:
        """Stop generation at the next token, or skip the request if it is waiting."""
        self.cancelled = True
