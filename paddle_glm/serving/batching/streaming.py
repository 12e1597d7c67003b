"""Concurrent generation with a local model: text streamed from the scheduler."""

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from paddle_glm.chat_template import ChatTemplate, Message, render
from paddle_glm.generation import GenerationOutput, GenerationParams, StreamDecoder
from paddle_glm.generation.logits_processors import AnswerPenalty, LogitBias, LogitsProcessor
from paddle_glm.generation.sampling import TokenLogprobs
from paddle_glm.generation.session import with_special_token_ids
from paddle_glm.serving.batching.generation_request import GenerationRequest
from paddle_glm.serving.batching.scheduler import Scheduler


@dataclass(frozen=True)
class TextPiece:
    """Text that has become final, and the log probabilities, if asked for, of tokens since the last piece."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


StreamEvent = TextPiece | GenerationOutput | Exception
"""A piece of text, or, once at the end, the output or the exception."""


@dataclass(frozen=True)
class AnswerOptions:
    """What one request asks for beyond `GenerationParams`.

    stop_strings, hide_tool_calls: as for `StreamDecoder`; presence_penalty, frequency_penalty: as for
    `AnswerPenalty`; logit_bias: as for `LogitBias`; top_logprobs: as for `GenerationRequest`; constraint:
    makes the last processor of an answer behind a prompt of so many tokens; adapter: the LoRA adapter that
    answers.
    """

    stop_strings: Sequence[str] = ()
    hide_tool_calls: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    constraint: Callable[[int], LogitsProcessor] | None = None
    adapter: str | None = None

    def processors(self, prompt_length: int) -> list[LogitsProcessor]:
        found: list[LogitsProcessor] = []
        if self.presence_penalty or self.frequency_penalty:
            found.append(AnswerPenalty(prompt_length, self.presence_penalty, self.frequency_penalty))
        if self.logit_bias:
            found.append(LogitBias(self.logit_bias))
        return found if self.constraint is None else [*found, self.constraint(prompt_length)]


@dataclass
class StreamListener:
    """Decode a request's tokens into events; `emit` is called on the scheduler's thread."""

    decoder: StreamDecoder
    emit: Callable[[StreamEvent], None]
    pending: list[TokenLogprobs] = field(default_factory=list)  # of text that is not final yet

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        if logprobs is not None and token not in self.decoder.eos_token_ids:
            self.pending.append(logprobs)
        if piece := self.decoder.push(token):
            self._emit_piece(piece)
        return not self.decoder.ended

    def on_finished(self) -> None:
        rest = self.decoder.finish()
        if rest or self.pending:
            self._emit_piece(rest)
        assert self.decoder.reply is not None
        self.emit(self.decoder.reply)

    def on_failed(self, error: Exception) -> None:
        self.emit(error)

    def _emit_piece(self, text: str) -> None:
        self.emit(TextPiece(text, tuple(self.pending)))
        self.pending.clear()


def submit_chat(
    scheduler: Scheduler,
    messages: Sequence[Message],
    params: GenerationParams,
    emit: Callable[[StreamEvent], None],
    adapter: str | None = None,
) -> GenerationRequest:
    """Submit a conversation; its events go to `emit`, on the scheduler's thread.

    Raises what rendering and `Scheduler.submit` raise.
    """
    tokenizer = scheduler.engine.tokenizer
    prompt = render(tokenizer.template, tokenizer, messages).input_ids
    return submit_prompt(scheduler, prompt, params, tokenizer.template, AnswerOptions(adapter=adapter), emit)


def submit_prompt(
    scheduler: Scheduler,
    prompt: Sequence[int],
    params: GenerationParams,
    template: ChatTemplate | None,
    options: AnswerOptions,
    emit: Callable[[StreamEvent], None],
    begun: Sequence[int] = (),
) -> GenerationRequest:
    """`submit_chat` with the ids of a prompt; template: as for `StreamDecoder`.

    begun: what the answer begins with; it counts as part of the prompt.
    """
    tokenizer = scheduler.engine.tokenizer
    params = with_special_token_ids(params, tokenizer, tokenizer.template)
    decoder = StreamDecoder(
        tokenizer,
        template,
        params.eos_token_ids,
        len(prompt),
        options.stop_strings,
        options.hide_tool_calls,
        begun,
    )
    prompt = [*prompt, *begun]
    processors = options.processors(len(prompt))
    listener = StreamListener(decoder, emit)
    return scheduler.submit(prompt, params, listener, processors, options.top_logprobs, options.adapter)


class LocalSession:
    """A `paddle_glm.generation.Session` over a scheduler, concurrent with others.

    adapter: that answers; None: the model alone.
    """

    def __init__(
        self, scheduler: Scheduler, params: GenerationParams | None = None, adapter: str | None = None
    ) -> None:
        self.scheduler, self.adapter = scheduler, adapter
        self.params = params or scheduler.engine.params
        self.reply: GenerationOutput | None = None

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """See `Session.stream`; closing the iterator early cancels generation."""
        self.reply = None
        events: queue.SimpleQueue[StreamEvent] = queue.SimpleQueue()
        request = submit_chat(self.scheduler, messages, self.params, events.put, self.adapter)
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
                yield event.text
        finally:
            request.cancel()
