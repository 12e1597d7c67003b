"""A local model as many conversations at once: text that arrives while the scheduler generates."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from paddle_glm.chat import Message, render
from paddle_glm.generation import Answer, GenerationParams, Reply
from paddle_glm.generation.session import with_special_ids
from paddle_glm.serving.scheduler import Job, Scheduler

Event = str | Reply | Exception
"""A piece of the answer; how it ended; or why it failed. The last two come once, at the end."""


@dataclass
class LiveAnswer:
    """Turns a job's tokens into events; `emit` is called on the scheduler's thread."""

    answer: Answer
    emit: Callable[[Event], None]

    def token(self, token: int) -> bool:
        if piece := self.answer.push(token):
            self.emit(piece)
        return not self.answer.ended

    def finished(self) -> None:
        if rest := self.answer.finish():
            self.emit(rest)
        assert self.answer.reply is not None
        self.emit(self.answer.reply)

    def failed(self, error: Exception) -> None:
        self.emit(error)


def start(
    scheduler: Scheduler,
    messages: Sequence[Message],
    params: GenerationParams,
    emit: Callable[[Event], None],
    stops: Sequence[str] = (),
    hide_calls: bool = False,
) -> Job:
    """Begin an answer to `messages`; its events go to `emit`.

    stops, hide_calls: as for `Answer`. Raises what rendering and `Scheduler.submit` raise.
    """
    tokenizer = scheduler.engine.tokenizer
    template = tokenizer.template
    prompt = render(template, tokenizer, messages).input_ids
    params = with_special_ids(params, tokenizer, template)
    answer = Answer(tokenizer, template, params.eos_token_ids, len(prompt), stops, hide_calls)
    return scheduler.submit(prompt, params, LiveAnswer(answer, emit))


class LocalSession:
    """One conversation of several over a scheduler; `paddle_glm.generation.Session` says what it does."""

    def __init__(self, scheduler: Scheduler, params: GenerationParams | None = None) -> None:
        self.scheduler = scheduler
        self.params = params or scheduler.engine.params
        self.reply: Reply | None = None

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """See `Session.stream`; leaving the iterator early ends the answer."""
        self.reply = None
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        job = start(self.scheduler, messages, self.params, events.put)
        return self._stream(job, events)

    def _stream(self, job: Job, events: "queue.SimpleQueue[Event]") -> Iterator[str]:
        try:
            while True:
                event = events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Reply):
                    self.reply = event
                    return
                yield event
        finally:
            job.cancel()
