"""Answers that grow on a web page: a question put to one session or, side by side, to several."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.generation import Session
from paddle_glm.serving.batching.generation_request import QueueFullError, SchedulerClosedError

INTERVAL_SECONDS = 0.1  # between two looks at the answers
ANSWER_ERRORS = (InputError, QueueFullError, SchedulerClosedError)  # what their text explains

_logger = logging.getLogger(__name__)


@dataclass
class Answer:
    """text: so far. messages: of the complete answer, else None. error: why there is none."""

    text: str = ""
    messages: list[Message] | None = None
    error: Exception | None = None

    def kept_messages(self) -> list[Message]:
        """What a conversation keeps: the complete answer, or what there was when it was stopped."""
        if self.messages is not None:
            return self.messages
        return [{"role": "assistant", "content": self.text}] if self.text else []


def stream_answers(
    open_sessions: Sequence[Callable[[], Session]], asked: Sequence[Sequence[Message]]
) -> Generator[list[Answer], None, None]:
    """Yield the answers so far until all have ended, the last time after that.

    open_sessions: each opens the session that answers the conversation at the same place in `asked`. Yields
    also while nothing new has come, so that the caller can stop; closing the iterator ends every answer at
    its next piece.
    """
    readers = [_Reader(*pair) for pair in zip(open_sessions, asked, strict=True)]
    threads = [threading.Thread(target=reader.read, daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            yield [reader.answer for reader in readers]
            until = time.monotonic() + INTERVAL_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
        yield [reader.answer for reader in readers]
    finally:
        for reader in readers:
            reader.stopped = True


def error_text(error: Exception) -> str:
    """What a page says about a failed answer. Errors of the program itself go to the log."""
    if isinstance(error, PromptTooLongError):
        return f"{error}（请缩短问题，或删除最早的对话 / shorten the question, or delete the oldest rounds）"
    if isinstance(error, ANSWER_ERRORS):
        return str(error)
    _logger.error("an answer failed", exc_info=error)
    return "回答失败，原因见日志 / the answer failed: see the log"


@dataclass
class _Reader:
    """Reads one answer in a thread."""

    open_session: Callable[[], Session]
    asked: Sequence[Message]
    answer: Answer = field(default_factory=Answer)
    stopped: bool = False

    def read(self) -> None:
        try:
            session = self.open_session()
            for piece in session.stream(self.asked):
                if self.stopped:
                    return  # the stream is closed with its last reference
                self.answer.text += piece
            assert session.reply is not None
            self.answer.messages = session.reply.messages
        except Exception as error:
            self.answer.error = error
