"""`generate`, `chat` and `stream_chat` of a model, as in the original implementations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle

from paddle_glm.array_types import Array
from paddle_glm.backends.generation_defaults import default_generation_params, generation_config_values
from paddle_glm.chat_template import Message, messages_from_history
from paddle_glm.errors import InputError
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.generation import generate as generate_steps
from paddle_glm.generation.response_parser import History, chat_result, extended_history
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.models.generation_keywords import params_from_kwargs, wrap_logits_processors
from paddle_glm.models.past_key_values import PastKeyValues, check_past_key_values
from paddle_glm.numpy_interop import step_tensor
from paddle_glm.tokenizers import Tokenizer


class GenerationMixin:
    """Mixin of `CausalLM`.

    params: fields of `GenerationParams`, and transformers' `eos_token_id`; unsupported ones raise
    `InputError`.
    logits_processor: a callable or a list of callables (ids int64 [rows, length], scores float32 [rows,
    vocab]) -> scores, on Paddle tensors; in beam search scores are log probabilities.
    """

    def generate(
        self: Any,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        logits_processor: Any = None,
        inputs: Any = None,
        **params: Any,
    ) -> paddle.Tensor:
        """Prompts with generated tokens, int64 [batch, prompt + new], right-padded after each end token.

        input_ids (or inputs), attention_mask: int [batch, length], arrays or tensors, left-padded; without a
            mask there is no padding. position_ids: the tokenizer's, which follow from the mask. Defaults of
            `params` come from generation_config.json, end and padding ids from the model configuration.
        Raises `InputError` for other positions.
        """
        if (input_ids is None) == (inputs is None):
            raise InputError("generate takes input_ids: generate(**tokenizer(text, return_tensors='pd'))")
        ids = np.asarray(inputs if input_ids is None else input_ids, dtype=np.int64)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask, dtype=np.int64)
        if position_ids is not None:
            self._check_positions(ids, mask, np.asarray(position_ids))
        values = {"eos_token_ids": (self.config.eos_token_id,), "pad_token_id": self.config.pad_token_id}
        defaults = GenerationParams.from_dict({**values, **generation_config_values(self.config)})
        resolved_params = params_from_kwargs(params, defaults)
        columns = generate_steps(
            DygraphBackend(self), ids, mask, resolved_params, wrap_logits_processors(logits_processor)
        )
        return step_tensor(np.concatenate([ids, np.stack(list(columns), axis=1)], axis=1))

    def _check_positions(self: Any, ids: Array, mask: Array, positions: Array) -> None:
        expected = self.family.positions(self.config, ids, mask)
        real = np.broadcast_to(mask.reshape(len(mask), *[1] * (expected.ndim - 2), -1) > 0, expected.shape)
        if positions.shape != expected.shape or (positions != expected)[real].any():
            raise InputError(
                f"position_ids {list(positions.shape)} are not the model's own, {list(expected.shape)}, "
                "which follow from attention_mask: leave them out, or give the tokenizer's"
            )

    def chat(
        self: Any,
        tokenizer: Tokenizer,
        query: str,
        history: Sequence[Any] | None = None,
        role: str = "user",
        logits_processor: Any = None,
        **params: Any,
    ) -> tuple[Any, History]:
        """The answer to `query`, and the history with it.

        The answer is text; for a tool call of ChatGLM3 it is `{"name", "parameters"}`, or
        `{"name", "content"}` where the conversation declares no tools, as in the original.
        """
        messages = messages_from_history(query, history, role=role)
        session = ChatSession(
            DygraphBackend(self),
            tokenizer,
            params_from_kwargs(params, default_generation_params(self.config)),
            processors=wrap_logits_processors(logits_processor),
        )
        reply = session.answer(messages)
        return chat_result(tokenizer.template, query, history, messages, reply.messages)

    def stream_chat(
        self: Any,
        tokenizer: Tokenizer,
        query: str,
        history: Sequence[Any] | None = None,
        role: str = "user",
        past_key_values: PastKeyValues | None = None,
        return_past_key_values: bool = False,
        logits_processor: Any = None,
        **params: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """Like `chat`, but yields (answer so far, history) while the answer grows.

        return_past_key_values: also yield the KV cache, to be passed as `past_key_values` with the next
            query;
            tokens shared with it are not computed again, and answers are the same as without it. Raises
            `InputError` for families that cannot reuse a past (ChatGLM-6B), and for another model's past.
        """
        resolved_params = params_from_kwargs(params, default_generation_params(self.config))
        check_past_key_values(self, past_key_values, return_past_key_values, resolved_params.num_beams)
        backend = DygraphBackend(self, past_key_values)
        messages = messages_from_history(query, history, role=role)
        session = ChatSession(
            backend, tokenizer, resolved_params, processors=wrap_logits_processors(logits_processor)
        )
        returned = backend if return_past_key_values else None
        replies: Iterator[tuple[Any, ...]] = self._stream_replies(session, query, history, messages, returned)
        return replies

    def _stream_replies(
        self: Any,
        session: ChatSession,
        query: str,
        history: Sequence[Any] | None,
        messages: list[Message],
        backend: DygraphBackend | None,
    ) -> Iterator[tuple[Any, ...]]:
        """backend: yield its past with each answer."""
        template = session.template
        text, last = "", None
        for piece in session.stream(messages):
            text += piece
            so_far: Message = {"role": "assistant", "metadata": "", "content": text}
            last = text, extended_history(template, query, history, messages, [so_far])
            yield last if backend is None else (*last, backend.past)
        assert session.reply is not None
        whole = chat_result(template, query, history, messages, session.reply.messages)
        if whole != last:
            yield whole if backend is None else (*whole, backend.past)
