"""Requests of OpenAI's protocol -> prompts, `GenerationParams` and `AnswerOptions`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from paddle_glm.chat_template import ChatTemplate, Message
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.generation.logits_processors import LogitsProcessor
from paddle_glm.generation.params import MIN_DIVISOR
from paddle_glm.serving.batching.request_sampling import sampling_values
from paddle_glm.serving.batching.streaming import AnswerOptions
from paddle_glm.serving.protocol.strict_json import LenientModel, StrictModel, example, limited
from paddle_glm.serving.protocol.tool_calls import (
    TOOL_RESULT_ROLE,
    NamedTool,
    Tool,
    ToolCall,
    add_tool_declarations,
)
from paddle_glm.tokenizers.base import Tokenizer

MAX_STOP_STRINGS = 16
MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
COMPLETION_TOKENS = 16  # `max_tokens` of a completion that gives none, as in OpenAI's protocol


class TextPart(StrictModel):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(StrictModel):
    """A message of the conversation; `name`, `refusal` and `tool_call_id` are accepted and ignored."""

    role: str = Field(json_schema_extra={"enum": ["system", "developer", "user", "assistant", "tool"]})
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
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


class StreamOptions(LenientModel):
    include_usage: bool | None = None


class JSONSchema(StrictModel):
    """`json_schema` of a response format; schemas are always followed, whatever `strict` is."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None

    def to_schema(self) -> dict[str, Any] | None:
        """The schema that answers follow; None for text. Raises `InputError` where it is missing."""
        if self.type != "json_schema":
            return {"type": "object"} if self.type == "json_object" else None
        if self.json_schema is None:
            raise InputError("response_format has the type json_schema: expected json_schema with the schema")
        return self.json_schema.schema_


class GenerationBody(StrictModel):
    """Fields of chat completions and completions; `top_k` and `repetition_penalty` as in vLLM."""

    model_config = ConfigDict(allow_inf_nan=False)
    # Unsupported fields of the protocol -> the neutral values that are accepted.
    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = limited(minimum=1, maximum=MAX_CHOICES)
    temperature: float | None = limited(minimum=0)
    top_p: float | None = limited(exclusiveMinimum=0, maximum=1)
    top_k: int | None = limited(minimum=-1)
    repetition_penalty: float | None = limited(minimum=MIN_DIVISOR)
    presence_penalty: float | None = limited(minimum=-2, maximum=2)
    frequency_penalty: float | None = limited(minimum=-2, maximum=2)
    logit_bias: dict[str, float] | None = limited(
        propertyNames={"pattern": "^[0-9]{1,9}$"}, additionalProperties={"minimum": -100, "maximum": 100}
    )
    max_tokens: int | None = limited(minimum=1)
    seed: int | None = limited(minimum=0)
    stop: str | list[str] | None = limited(minLength=1, maxItems=MAX_STOP_STRINGS, items={"minLength": 1})
    # Without effect on the answer.
    user: str | None = None
    metadata: Any = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def answer_tokens(self) -> int | None:
        """Maximum tokens of the answer; None for the server's default."""
        return self.max_tokens

    @property
    def top_logprobs_count(self) -> int | None:
        """As `AnswerOptions.top_logprobs`."""
        raise NotImplementedError

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check(self) -> None:
        """Raise `InputError` naming an unsupported or invalid field."""
        for name, neutral in self.neutral_values.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise InputError(f"{name} is {value!r}: this server supports only {neutral[0]!r}")
        if self.temperature is not None and self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}: expected 0 (greedy decoding) or more")
        if not 1 <= self.choices <= MAX_CHOICES:
            raise InputError(f"n is {self.n}: expected 1 to {MAX_CHOICES}")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if value is not None and not -2 <= value <= 2:
                raise InputError(f"{name} is {value}: expected a number from -2 to 2")
        stop_strings = self.stop_strings()
        if len(stop_strings) > MAX_STOP_STRINGS or not all(stop_strings):
            raise InputError(f"stop is {self.stop!r}: expected at most {MAX_STOP_STRINGS} texts, none empty")
        top = self.top_logprobs_count
        if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
            raise InputError(f"{top} log probabilities of each token: expected 0 to {MAX_TOP_LOGPROBS}")

    def stop_strings(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def to_params(self, defaults: GenerationParams) -> list[GenerationParams]:
        """For each choice `defaults` updated with the request's values; temperature 0 is greedy decoding.

        Choices have the seeds `seed`, `seed` + 1, ... Raises `InputError` for invalid values.
        """
        values = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0 if self.top_k == -1 else self.top_k,  # -1 turns it off in vLLM
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.answer_tokens,
            "seed": self.seed,
        }
        given = {name: value for name, value in values.items() if value is not None}
        params = defaults.updated(sampling_values(given))
        if params.seed is None:
            return [params] * self.choices
        return [replace(params, seed=params.seed + choice) for choice in range(self.choices)]

    def to_options(
        self, hide_tool_calls: bool = False, constraint: Callable[[int], LogitsProcessor] | None = None
    ) -> AnswerOptions:
        """Raises `InputError` for a `logit_bias` whose keys are no ids, or values not from -100 to 100."""
        return AnswerOptions(
            self.stop_strings(),
            hide_tool_calls,
            self.presence_penalty or 0.0,
            self.frequency_penalty or 0.0,
            {_token_id(token): _bias(token, bias) for token, bias in (self.logit_bias or {}).items()},
            self.top_logprobs_count,
            constraint,
        )


class ChatRequest(GenerationBody):
    """Body of /v1/chat/completions."""

    model_config = example(messages=[{"role": "user", "content": "你好"}], max_tokens=16, stream=False)

    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "modalities": (["text"],),
    }

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = limited(minimum=1)
    logprobs: bool | None = None
    top_logprobs: int | None = limited(minimum=0, maximum=MAX_TOP_LOGPROBS)
    tools: list[Tool] | None = None
    response_format: ResponseFormat | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    # Accepted with neutral values only.
    modalities: list[str] | None = limited(enum=[None, ["text"]])
    # Without effect on the answer.
    parallel_tool_calls: bool | None = None

    @property
    def answer_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top_logprobs_count(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        super().check()
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise InputError(f"max_tokens {both[0]} and max_completion_tokens {both[1]}: give one of them")
        if self.top_logprobs and not self.logprobs:
            raise InputError(f"top_logprobs is {self.top_logprobs}: it needs logprobs true")
        names = [tool.function.name for tool in self.tools or ()]
        if self.tool_choice == "required" and len(names) != 1:
            raise InputError(f"tool_choice is 'required' with {len(names)} tools: name the one to call")
        if self.called_tool is not None and self.called_tool not in names:
            raise InputError(f"tool_choice names {self.called_tool!r}: expected one of tools, {names}")
        if self.called_tool is not None and self.answer_schema is not None:
            raise InputError("tool_choice with a response_format: an answer is a call, or JSON")

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for text."""
        return None if self.response_format is None else self.response_format.to_schema()

    @property
    def called_tool(self) -> str | None:
        """The tool that the answer has to call."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        return self.tools[0].function.name if self.tool_choice == "required" and self.tools else None

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


class CompletionRequest(GenerationBody):
    """Body of /v1/completions: text that the model continues, not a conversation."""

    model_config = example(prompt="你好", max_tokens=16)

    neutral_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"suffix": ("",), "best_of": (1,)}

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = limited(minimum=0, maximum=MAX_TOP_LOGPROBS)
    # Accepted with neutral values only.
    suffix: str | None = limited(enum=[None, ""])
    best_of: int | None = limited(enum=[None, 1])

    @property
    def answer_tokens(self) -> int | None:
        return COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def top_logprobs_count(self) -> int | None:
        return self.logprobs

    def check(self) -> None:
        super().check()
        if self.echo and self.logprobs is not None:
            raise InputError("echo with logprobs: the prompt's log probabilities are not computed")

    def prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """Ids of each prompt. Raises `InputError` where there is none."""
        given: Sequence[Any] = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if given and isinstance(given[0], int):
            given = [given]
        prompts = [tokenizer.encode(one) if isinstance(one, str) else list(one) for one in given]
        if not all(prompts) or not 1 <= len(prompts) * self.choices <= MAX_CHOICES:
            raise InputError(
                f"prompt holds {len(prompts)} prompts for n {self.choices}: expected prompts with tokens "
                f"and 1 to {MAX_CHOICES} answers"
            )
        return prompts


class TokenizeRequest(StrictModel):
    """Body of /tokenize, as in vLLM: a text, or a conversation."""

    model_config = example(prompt="你好")

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    add_special_tokens: bool = True


class DetokenizeRequest(StrictModel):
    """Body of /detokenize, as in vLLM."""

    model_config = example(tokens=[64, 65])

    model: str | None = None
    tokens: list[int] = Field(json_schema_extra={"items": {"type": "integer", "minimum": 0}})


def _token_id(token: str) -> int:
    if not token.isascii() or not token.isdigit() or len(token) > 9:
        raise InputError(f"logit_bias has the key {token[:40]!r}: expected a token's id")
    return int(token)


def _bias(token: str, bias: float) -> float:
    if not -100 <= bias <= 100:
        raise InputError(f"logit_bias of the token {token} is {bias}: expected a number from -100 to 100")
    return bias
