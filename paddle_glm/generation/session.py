"""Chat sessions: messages -> streamed text; and batch generation: prompts -> answers' ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from paddle_glm.array_types import IntArray
from paddle_glm.chat_template import ChatTemplate, Message, PromptTokenizer, render
from paddle_glm.generation.backend_protocol import GenerationBackend
from paddle_glm.generation.detokenizer import StreamingDetokenizer
from paddle_glm.generation.logits_processors import LogitsProcessor
from paddle_glm.generation.loop import generate
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.response_parser import PlainTextParser, StreamingResponseParser
from paddle_glm.generation.stop_strings import StopStringChecker


class ChatTokenizer(PromptTokenizer, Protocol):
    """What a session needs of a tokenizer, such as `paddle_glm.tokenizers.Tokenizer`."""

    @property
    def template(self) -> ChatTemplate: ...

    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class GenerationOutput:
    """A finished answer.

    messages: usually one; two if ChatGLM3 calls a tool after some text. finish_reason: "stop" for an end
    token or a stop string, "length" for the maximum length.
    """

    messages: list[Message]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def template_stop_token_ids(template: ChatTemplate, tokenizer: PromptTokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.get_command(token) for token in template.stop_tokens)


def with_special_token_ids(
    params: GenerationParams, tokenizer: PromptTokenizer, template: ChatTemplate
) -> GenerationParams:
    """`params` with the tokenizer's padding id and, unless set, the template's end tokens."""
    ends = params.eos_token_ids or template_stop_token_ids(template, tokenizer)
    return replace(params, eos_token_ids=ends, pad_token_id=tokenizer.pad_token_id)


def pad_left(sequences: Sequence[Sequence[int]], pad: int) -> tuple[IntArray, IntArray]:
    """Left-pad sequences; returns input_ids and attention_mask, int64 [batch, longest]."""
    width = max(map(len, sequences))
    ids = np.full((len(sequences), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = sequence
        mask[row, width - len(sequence) :] = 1
    return ids, mask


def generate_batch(
    backend: GenerationBackend, prompts: Sequence[Sequence[int]], params: GenerationParams
) -> list[list[int]]:
    """Ids of the answers to a batch of prompts, each truncated before its end token."""
    ids, mask = pad_left(prompts, params.pad_token_id)
    columns = np.stack(list(generate(backend, ids, mask, params)), axis=1)
    return [_truncate_at_eos(row.tolist(), params.eos_token_ids) for row in columns]


def _truncate_at_eos(ids: list[int], ends: tuple[int, ...]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


class SessionOutput(Protocol):
    """A finished answer, as provided by every kind of session."""

    @property
    def messages(self) -> list[Message]: ...

    @property
    def finish_reason(self) -> str: ...


class Session(Protocol):
    """A chat session with a local model or a remote server, for the terminal and the web pages."""

    @property
    def reply(self) -> SessionOutput | None:
        """The last answer; None while streaming and after a failure."""

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the answer to `messages` in pieces of complete characters, then set `reply`."""


class StreamDecoder:
    """Incremental decoder of one answer: tokens -> visible text."""

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        template: ChatTemplate | None,
        eos_token_ids: Sequence[int],
        prompt_tokens: int,
        stop_strings: Sequence[str] = (),
        hide_tool_calls: bool = False,
        begun: Sequence[int] = (),
    ) -> None:
        """template: None for text that is no answer in a conversation, which stays as it is.

        stop_strings: strings that end the answer; hide_tool_calls: leave tool calls out of the text.
        begun: the answer's first tokens, where they were given to the model behind the prompt.
        """
        self.ended = False
        self.reply: GenerationOutput | None = None
        self.eos_token_ids = eos_token_ids
        self._prompt_tokens = prompt_tokens
        self._text = StreamingDetokenizer(tokenizer.decode)
        self._response = (
            PlainTextParser() if template is None else StreamingResponseParser(template, hide_tool_calls)
        )
        self._stops = StopStringChecker(stop_strings)
        self._begun = len(begun)
        self._prompt_tokens += self._begun
        for token in begun:
            self.push(token)

    def push(self, token: int) -> str:
        """Take a token; return the text that has become final. Sets `ended` at the end of the answer."""
        if token in self.eos_token_ids:
            self.ended = True
            return ""
        piece = self._stops.push(self._response.push(self._text.push([token])))
        self.ended = self._stops.stopped
        return piece

    def finish(self) -> str:
        """Return the remaining text and set `reply`."""
        rest = self._stops.push(self._response.push(self._text.finish()) + self._response.finish())
        rest += self._stops.finish()
        messages = self._response.messages()
        if self._stops.stopped:
            messages = [{**messages[-1], "content": self._stops.emitted}]
        reason = "stop" if self.ended or self._stops.stopped else "length"
        self.reply = GenerationOutput(
            messages, reason, self._prompt_tokens, len(self._text.ids) - self._begun
        )
        return rest


class ChatSession:
    """A `Session` with one backend; the caller keeps the conversation."""

    def __init__(
        self,
        backend: GenerationBackend,
        tokenizer: ChatTokenizer,
        params: GenerationParams | None = None,
        template: ChatTemplate | None = None,
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.template = template or tokenizer.template
        self.params = with_special_token_ids(params or GenerationParams(), tokenizer, self.template)
        self.processors = processors
        self.reply: GenerationOutput | None = None

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the answer to `messages` in pieces of complete characters.

        Afterwards `reply` holds the messages to append to the conversation. Raises `InputError` for a
        conversation that cannot be rendered or leaves no room for an answer.
        """
        self.reply = None
        prompt = render(self.template, self.tokenizer, messages).input_ids
        batch = pad_left([prompt], self.params.pad_token_id)
        steps = generate(self.backend, *batch, self.params, self.processors)
        return self._stream(steps, len(prompt))

    def answer(self, messages: Sequence[Message]) -> GenerationOutput:
        """The complete answer."""
        for _ in self.stream(messages):
            pass
        assert self.reply is not None
        return self.reply

    def _stream(self, steps: Iterator[IntArray], prompt_tokens: int) -> Iterator[str]:
        decoder = StreamDecoder(self.tokenizer, self.template, self.params.eos_token_ids, prompt_tokens)
        for column in steps:
            if piece := decoder.push(int(column[0])):
                yield piece
            if decoder.ended:
                break
        rest = decoder.finish()
        self.reply = decoder.reply
        if rest:
            yield rest
