"""OpenAI's chat completions protocol: requests -> messages and parameters, outputs -> JSON."""

import difflib
import reprlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paddle_glm.chat_template import ChatTemplate, Message
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationOutput, GenerationParams
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.serving.request_sampling import sampling_values
from paddle_glm.serving.tool_calls import (
    TOOL_RESULT_ROLE,
    Tool,
    ToolCall,
    add_tool_declarations,
    extract_tool_calls,
)

MAX_STOP_STRINGS = 16

_SHORT = reprlib.Repr()  # of values in messages: `repr` has no limit of length and depth
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 3, 80, 80, 80

# Unsupported fields of the protocol -> the neutral values that are accepted.
_UNSUPPORTED_FIELD_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


class TextPart(BaseModel):
    """A text part of a message's content."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message of the conversation; `name` and `tool_call_id` are accepted and ignored."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def to_messages(self) -> list[Message]:
        """One message, or its text followed by its tool calls. Raises `InputError` for an empty message."""
        parts = self.content
        if parts is None and not self.tool_calls:
            raise InputError(f"a message of the role {self.role!r} has no content: expected text")
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts or ())
        role = {"developer": "system", "tool": TOOL_RESULT_ROLE}.get(self.role, self.role)
        calls = [call.to_message() for call in self.tool_calls or ()]
        return calls if calls and not text else [{"role": role, "content": text}, *calls]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """Body of /v1/chat/completions; `top_k` and `repetition_penalty` are extensions, as in vLLM."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    # Accepted with neutral values only: see _UNSUPPORTED_FIELD_DEFAULTS.
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    # Without effect on the answer.
    parallel_tool_calls: bool | None = None
    user: str | None = None
    metadata: Any = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def check(self) -> None:
        """Raise `InputError` naming an unsupported or invalid field."""
        for name, neutral in _UNSUPPORTED_FIELD_DEFAULTS.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise InputError(f"{name} is {value!r}: this server supports only {neutral[0]!r}")
        if self.temperature is not None and self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}: expected 0 (greedy decoding) or more")
        stop_strings = self.stop_strings()
        if len(stop_strings) > MAX_STOP_STRINGS or not all(stop_strings):
            raise InputError(f"stop is {self.stop!r}: expected at most {MAX_STOP_STRINGS} texts, none empty")
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise InputError(f"max_tokens {both[0]} and max_completion_tokens {both[1]}: give one of them")

    @property
    def tool_calls_enabled(self) -> bool:
        """Whether the answer may be a tool call."""
        return bool(self.tools) and self.tool_choice != "none"

    def to_messages(self, template: ChatTemplate) -> list[Message]:
        """The conversation with its tool declarations. Raises `InputError` for invalid messages."""
        messages = [one for message in self.messages for one in message.to_messages()]
        return (
            add_tool_declarations(messages, self.tools, template)
            if self.tools and self.tool_calls_enabled
            else messages
        )

    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def to_params(self, defaults: GenerationParams) -> GenerationParams:
        """`defaults` updated with the request's values; temperature 0 means greedy decoding.

        Raises `InputError` for invalid values.
        """
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        values = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0 if self.top_k == -1 else self.top_k,  # -1 turns it off in vLLM
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": most,
            "seed": self.seed,
        }
        given = {name: value for name, value in values.items() if value is not None}
        return defaults.updated(sampling_values(given))


@dataclass(frozen=True)
class ChatCompletionBuilder:
    """Builds the JSON objects of one answer, which share id, time and model."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    tool_calls_enabled: bool = False

    def response(self, reply: GenerationOutput) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": visible_text(reply.messages)}
        reason = reply.finish_reason
        if self.tool_calls_enabled and (calls := extract_tool_calls(reply.messages)):
            message = {**message, "content": visible_text(reply.messages[:-1]) or None, "tool_calls": calls}
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**self._common_fields("chat.completion"), "choices": [choice], "usage": usage(reply)}

    def first_chunk(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def text_chunk(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def final_chunks(self, reply: GenerationOutput) -> Iterator[dict[str, Any]]:
        """The chunks after the text: the tool call, if any, and the finish reason."""
        reason = reply.finish_reason
        if self.tool_calls_enabled and reply.messages[-1].get("metadata"):
            if calls := extract_tool_calls(reply.messages):
                yield self._chunk({"tool_calls": [{"index": 0, **calls[0]}]})
                reason = "tool_calls"
            else:  # withheld because it looked like a tool call
                yield self.text_chunk(visible_text(reply.messages[-1:]))
        yield self._chunk({}, reason)

    def usage_chunk(self, reply: GenerationOutput) -> dict[str, Any]:
        """The chunk requested by `stream_options: {"include_usage": true}`."""
        return {**self._common_fields("chat.completion.chunk"), "choices": [], "usage": usage(reply)}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common_fields("chat.completion.chunk"), "choices": [choice]}

    def _common_fields(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage(reply: GenerationOutput) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def validation_message(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> tuple[str, str | None]:
    """The most specific of pydantic's errors as (one line that names the value, field).

    known: all fields of the request, for suggesting the nearest one.
    """
    first = max(errors, key=lambda error: len(error["loc"]))  # of a union's alternatives, the closest
    # FastAPI prepends "body"; a union appends the alternatives it tried.
    place = [part for part in first["loc"] if part != "body"]
    names = [str(part) for part in place if isinstance(part, int) or (part.isidentifier() and part != "str")]
    param = ".".join(names) or None
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{param or repr(name)} is not a field of the request{hint}", param
    if first["type"] == "missing":
        return f"{param or 'the body'} is missing: expected JSON with {', '.join(known[:2])}", param
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON: {first.get('ctx', {}).get('error', first['msg'])}", None
    given = _SHORT.repr(first.get("input"))
    return f"{param or 'the body'} is {given}: {first['msg'][:1].lower()}{first['msg'][1:]}", param
