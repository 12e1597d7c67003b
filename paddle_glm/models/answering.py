"""What users of the original models call on a model: `generate`, `chat`, `stream_chat`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle

from paddle_glm.chat import Message, from_history
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.generation import generate as generate_steps
from paddle_glm.generation.response import History, chat_result, extended_history
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.tokenizers import Tokenizer


class Answering:
    """The methods, for `CausalLM` to inherit."""

    def generate(self: Any, input_ids: Any, attention_mask: Any = None, **params: Any) -> paddle.Tensor:
        """Prompts with their answers, int64 [batch, prompt + new], padded behind each end token.

        input_ids, attention_mask: int [batch, length], arrays or tensors, padded on the left; all real where
            no mask is given. params: those of `GenerationParams`; transformers' `eos_token_id`, one id or
            several, is taken too. End and padding ids are the configuration's by default.
        """
        ids = np.asarray(input_ids, dtype=np.int64)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask, dtype=np.int64)
        values = {"eos_token_ids": (self.config.eos_token_id,), "pad_token_id": self.config.pad_token_id}
        columns = generate_steps(DygraphBackend(self), ids, mask, _params({**values, **params}))
        return paddle.to_tensor(np.concatenate([ids, np.stack(list(columns), axis=1)], axis=1))

    def chat(
        self: Any,
        tokenizer: Tokenizer,
        query: str,
        history: Sequence[Any] | None = None,
        role: str = "user",
        **params: Any,
    ) -> tuple[Any, History]:
        """The answer to `query`, and the history with it.

        The answer is text; for a tool call of ChatGLM3 it is `{"name", "parameters"}`, or
        `{"name", "content"}` where the conversation declares no tools, as in the original.
        """
        messages = from_history(query, history, role=role)
        reply = ChatSession(DygraphBackend(self), tokenizer, _params(params)).answer(messages)
        return chat_result(tokenizer.template, query, history, messages, reply.messages)

    def stream_chat(
        self: Any,
        tokenizer: Tokenizer,
        query: str,
        history: Sequence[Any] | None = None,
        role: str = "user",
        **params: Any,
    ) -> Iterator[tuple[Any, History]]:
        """Like `chat`, while the answer grows: all of it so far, and the history with that."""
        messages = from_history(query, history, role=role)
        session = ChatSession(DygraphBackend(self), tokenizer, _params(params))
        text, last = "", None
        for piece in session.stream(messages):
            text += piece
            so_far: Message = {"role": "assistant", "metadata": "", "content": text}
            last = text, extended_history(tokenizer.template, query, history, messages, [so_far])
            yield last
        assert session.reply is not None
        whole = chat_result(tokenizer.template, query, history, messages, session.reply.messages)
        if whole != last:
            yield whole


def _params(values: dict[str, Any]) -> GenerationParams:
    values = dict(values)
    if "eos_token_id" in values:
        ends = values.pop("eos_token_id")
        values["eos_token_ids"] = (ends,) if isinstance(ends, int) else tuple(ends)
    return GenerationParams.from_values(values)
