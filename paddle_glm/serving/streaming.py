"""Concurrent conversations with a local model: text streamed from the scheduler."""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from paddle_glm.chat_template import Message, render
from paddle_glm.generation import GenerationOutput, GenerationParams, StreamDecoder
from paddle_glm.generation.session import with_special_token_ids
from paddle_glm.serving.scheduler import GenerationRequest, Scheduler

StreamEvent = str | GenerationOutput | Exception
"""A piece of text, or, once at the end, the output or the exception."""


@dataclass
class StreamListener:
    """Decode a request's tokens into events; `emit` is called on the scheduler's thread."""

    decoder: StreamDecoder
    emit: Callable[[StreamEvent], None]

    def on_token(self, token: int) -> bool:
        if piece := self.decoder.push(token):
            self.emit(piece)
        return not self.decoder.ended

    def on_finished(self) -> None:
        if rest := self.decoder.finish():
            self.emit(rest)
        assert self.decoder.reply is not None
        self.emit(self.decoder.reply)

    def on_failed(self, error: Exception) -> None:
        self.emit(error)


def submit_chat(
    scheduler: Scheduler,
    messages: Sequence[Message],
    params: GenerationParams,
    emit: Callable[[StreamEvent], None],
    stop_strings: Sequence[str] = (),
    hide_tool_calls: bool = False,
) -> GenerationRequest:
    """Submit a conversation; its events go to `emit`, on the scheduler's thread.

    stop_strings, hide_tool_calls: as for `StreamDecoder`. Raises what rendering and `Scheduler.submit` raise.
    """
    tokenizer = scheduler.engine.tokenizer
    template = tokenizer.template
    prompt = render(template, tokenizer, messages).input_ids
    params = with_special_token_ids(params, tokenizer, template)
    decoder = StreamDecoder(
        tokenizer, template, params.eos_token_ids, len(prompt), stop_strings, hide_tool_calls
    )
    return scheduler.submit(prompt, params, StreamListener(decoder, emit))


class LocalSession:
    """A `paddle_glm.generation.Session` over a scheduler, concurrent with others."""

    def __init__(self, scheduler: Scheduler, params: GenerationParams | None = None) -> None:
        self.scheduler = scheduler
        self.params = params or scheduler.engine.params
        self.reply: GenerationOutput | None = None

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """See `Session.stream`; closing the iterator early cancels generation."""
        self.reply = None
        events: queue.SimpleQueue[StreamEvent] = queue.SimpleQueue()
        request = submit_chat(self.scheduler, messages, self.params, events.put)
        return self._stream(request, events)

    def _stream(self, request: GenerationRequest, events: "queue.SimpleQueue[StreamEvent]") -> Iterator[str]:
        try:
            while True:
                event = events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, GenerationOutput):
                    self.reply = event
                    return
                yield event
        finally:
            request.cancel()
