"""Answers that are JSON: the tokens that a schema forbids get no probability (llguidance)."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from paddle_glm.array_types import Array, IntArray
from paddle_glm.chat_template import RoleTemplate
from paddle_glm.errors import InputError
from paddle_glm.tokenizers.base import Tokenizer

# At most one space between the parts: a model that is free to write white space may never end.
_GUIDANCE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


class JSONConstraints:
    """Makes constraints for a tokenizer's answers.

    vocab_size: of the logits; eos_token_ids: one of them ends an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._eos_token_ids = list(eos_token_ids)

    def constraint(self, schema: dict[str, Any], prompt_length: int) -> "JSONConstraint":
        """A logits processor for one answer behind a prompt of so many tokens.

        schema: a JSON schema. Raises `InputError` for one that is not valid or not supported.
        """
        grammar = self._grammar(schema)
        if error := LLMatcher.validate_grammar(grammar, self._guide):
            reason = " ".join(error.split())
            raise InputError(f"response_format has a schema that is not supported: {reason[:300]}")
        return JSONConstraint(LLMatcher(self._guide, grammar), prompt_length)

    def _grammar(self, schema: dict[str, Any]) -> str:
        # ChatGLM3's answers begin with a line that names a tool, empty without one.
        start = r"/\n ?/" if isinstance(self._tokenizer.template, RoleTemplate) else "/ ?/"
        return f"start: {start} json\njson: %json {json.dumps({**schema, 'x-guidance': _GUIDANCE})}"

    @cached_property
    def _guide(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(_Pieces(self._tokenizer, self._vocab_size, self._eos_token_ids)))


class _Pieces:
    """A tokenizer as llguidance reads it: the bytes of every id."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: list[int]) -> None:
        self.eos_token_id = eos_token_ids[0]
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        # Ids without bytes: special tokens and those that fill the vocabulary up.
        self.special_token_ids = [token for token, text in enumerate(self.tokens) if not text]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        # As within a text: SentencePiece puts a space in front of the first word.
        ids = self._tokenizer.text_to_ids("\n" + text)
        return ids[next(place for place, token in enumerate(ids) if self.tokens[token] == b"\n") + 1 :]


class JSONConstraint:
    """A `LogitsProcessor` of one row."""

    def __init__(self, matcher: LLMatcher, prompt_length: int) -> None:
        self._matcher, self._read = matcher, prompt_length

    def __call__(self, ids: IntArray, scores: Array) -> Array:
        for token in ids[0, self._read :].tolist():
            self._matcher.consume_token(token)
        self._read = ids.shape[1]
        allowed = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)[: scores.shape[-1]] > 0
        if self._matcher.is_error() or not allowed.any():
            reason = self._matcher.get_error().partition("\n")[0]
            raise InputError(f"the answer cannot go on as its schema asks: {reason[:300]}")
        return np.where(allowed, scores, -np.inf).astype(scores.dtype)
