"""Prompts are tokenized beside the event loop, few at once, and those that cannot fit not at all."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from fastapi.concurrency import run_in_threadpool

from paddle_glm.errors import PromptTooLongError
from paddle_glm.tokenizers.base import Tokenizer

_AT_ONCE = 2  # long prompts do not take all processors from the model

T = TypeVar("T")


class Tokenizing:
    """max_length: tokens of prompt and answer together; None for no limit."""

    def __init__(self, tokenizer: Tokenizer, max_length: int | None) -> None:
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._longest_piece, self._max_length = tokenizer.longest_piece, max_length

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, called on another thread when its turn has come."""
        async with self._slots:
            return await run_in_threadpool(work)

    def check(self, texts: Iterable[object]) -> None:
        """Raise `PromptTooLongError` if texts are too long even with the longest piece for each token."""
        characters = sum(len(text) for text in texts if isinstance(text, str))
        if self._max_length is not None and characters > self._max_length * self._longest_piece:
            raise PromptTooLongError(
                f"a prompt of {characters} characters leaves no room for an answer within the model's limit "
                f"of {self._max_length} tokens"
            )
