"""Outputs -> the JSON objects of OpenAI's protocol."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from paddle_glm.generation import GenerationOutput
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.generation.sampling import TokenLogprobs
from paddle_glm.serving.batching.request_handle import Answer
from paddle_glm.serving.batching.streaming import TextPiece
from paddle_glm.serving.protocol.tool_calls import extract_tool_calls
from paddle_glm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class ResponseBuilder(ABC):
    """The objects of one response share id, time and model.

    choices: answers to each prompt, which count the tokens of a prompt once.
    """

    model: str
    tokenizer: Tokenizer
    choices: int = 1
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @abstractmethod
    def response(self, answers: Sequence[Answer]) -> dict[str, Any]: ...

    @abstractmethod
    def first_chunks(self, answers: int) -> Iterator[dict[str, Any]]:
        """What a stream of so many answers begins with."""

    @abstractmethod
    def text_chunk(self, index: int, piece: TextPiece) -> dict[str, Any]: ...

    @abstractmethod
    def final_chunks(self, index: int, output: GenerationOutput) -> Iterator[dict[str, Any]]:
        """The chunks after the text of an answer."""

    @abstractmethod
    def usage_chunk(self, outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
        """The chunk requested by `stream_options: {"include_usage": true}`."""

    def usage(self, outputs: Sequence[GenerationOutput]) -> dict[str, int]:
        prompt = sum(output.prompt_tokens for output in outputs[:: self.choices])
        completion = sum(output.completion_tokens for output in outputs)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def _common_fields(self, kind: str, prefix: str) -> dict[str, Any]:
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _token_text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")


@dataclass(frozen=True)
class ChatCompletionBuilder(ResponseBuilder):
    """Of /v1/chat/completions."""

    tool_calls_enabled: bool = False

    def response(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        usage = self.usage([answer.result for answer in answers])
        return {**self._common_fields("chat.completion", "chatcmpl"), "choices": choices, "usage": usage}

    def first_chunks(self, answers: int) -> Iterator[dict[str, Any]]:
        for index in range(answers):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def text_chunk(self, index: int, piece: TextPiece) -> dict[str, Any]:
        return self._chunk(index, {"content": piece.text}, logprobs=self._logprobs(piece.logprobs))

    def final_chunks(self, index: int, output: GenerationOutput) -> Iterator[dict[str, Any]]:
        """The chunks after the text: the tool call, if any, and the finish reason."""
        reason = output.finish_reason
        if self.tool_calls_enabled and output.messages[-1].get("metadata"):
            if calls := extract_tool_calls(output.messages):
                yield self._chunk(index, {"tool_calls": [{"index": 0, **calls[0]}]})
                reason = "tool_calls"
            else:  # withheld because it looked like a tool call
                yield self._chunk(index, {"content": visible_text(output.messages[-1:])})
        yield self._chunk(index, {}, reason)

    def usage_chunk(self, outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
        common = self._common_fields("chat.completion.chunk", "chatcmpl")
        return {**common, "choices": [], "usage": self.usage(outputs)}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        output, reason = answer.result, answer.result.finish_reason
        message: dict[str, Any] = {"role": "assistant", "content": visible_text(output.messages)}
        if self.tool_calls_enabled and (calls := extract_tool_calls(output.messages)):
            text = visible_text(output.messages[:-1]) or None
            message, reason = {**message, "content": text, "tool_calls": calls}, "tool_calls"
        logprobs = self._logprobs(answer.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _chunk(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._common_fields("chat.completion.chunk", "chatcmpl"), "choices": [choice]}

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        entries = [
            {
                **self._token(one.token, one.logprob),
                "top_logprobs": [self._token(token, logprob) for token, logprob in one.top],
            }
            for one in logprobs
        ]
        return {"content": entries, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._token_text(token),
            "logprob": logprob,
            "bytes": list(self.tokenizer.token_bytes(token)),
        }


@dataclass(frozen=True)
class CompletionBuilder(ResponseBuilder):
    """Of /v1/completions. echoed: text in front of each answer."""

    echoed: Sequence[str] = ()

    def response(self, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            self._choice(
                index,
                self._echo(index) + visible_text(answer.result.messages),
                self._logprobs(answer.logprobs),
                answer.result.finish_reason,
            )
            for index, answer in enumerate(answers)
        ]
        usage = self.usage([answer.result for answer in answers])
        return {**self._common_fields("text_completion", "cmpl"), "choices": choices, "usage": usage}

    def first_chunks(self, answers: int) -> Iterator[dict[str, Any]]:
        for index in range(answers):
            if echo := self._echo(index):
                yield self._chunk([self._choice(index, echo)])

    def text_chunk(self, index: int, piece: TextPiece) -> dict[str, Any]:
        return self._chunk([self._choice(index, piece.text, self._logprobs(piece.logprobs))])

    def final_chunks(self, index: int, output: GenerationOutput) -> Iterator[dict[str, Any]]:
        yield self._chunk([self._choice(index, "", None, output.finish_reason)])

    def usage_chunk(self, outputs: Sequence[GenerationOutput]) -> dict[str, Any]:
        return {**self._chunk([]), "usage": self.usage(outputs)}

    def _echo(self, index: int) -> str:
        return self.echoed[index // self.choices] if self.echoed else ""

    def _choice(
        self, index: int, text: str, logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._common_fields("text_completion", "cmpl"), "choices": choices}

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        return {
            "tokens": [self._token_text(one.token) for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [
                {self._token_text(token): logprob for token, logprob in one.top} for one in logprobs
            ],
        }
