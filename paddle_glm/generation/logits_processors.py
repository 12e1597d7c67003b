"""Logits processors: the repetition penalty, then those of the caller."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.sampling import SeenTokens, apply_repetition_penalty

LogitsProcessor = Callable[[IntArray, Array], Array]
"""(ids int64 [rows, length], scores [rows, vocab]) -> scores, as in transformers; -inf forbids a token.

ids: prompt (with left padding) and answer so far. scores: logits; in beam search log probabilities.
"""


@dataclass(frozen=True)
class AnswerPenalty:
    """OpenAI's penalties of tokens of the answer: a score less `presence` + count * `frequency`.

    prompt_length: columns of the ids that are not of the answer.
    """

    prompt_length: int
    presence: float
    frequency: float

    def __call__(self, ids: IntArray, scores: Array) -> Array:
        scores = scores.copy()
        for row, answer in zip(scores, ids[:, self.prompt_length :], strict=True):
            tokens, counts = np.unique(answer, return_counts=True)
            row[tokens] -= self.presence + self.frequency * counts
        return scores


@dataclass(frozen=True)
class LogitBias:
    """Adds a bias to the scores of tokens, by id, in every row. Raises `InputError` for an unknown id."""

    bias: Mapping[int, float]

    def __call__(self, ids: IntArray, scores: Array) -> Array:
        tokens = np.fromiter(self.bias, dtype=np.int64)
        unknown = tokens[(tokens < 0) | (tokens >= scores.shape[-1])]
        if unknown.size:
            raise InputError(
                f"logit_bias has the token {unknown[0]}: expected ids from 0 to {scores.shape[-1] - 1}"
            )
        scores = scores.copy()
        scores[:, tokens] += np.fromiter(self.bias.values(), dtype=scores.dtype)
        return scores


class LogitsProcessorList:
    """The processors of one call, with the state of its rows."""

    def __init__(
        self,
        params: GenerationParams,
        processors: Sequence[LogitsProcessor],
        input_ids: IntArray,
        attention_mask: IntArray,
    ) -> None:
        """input_ids, attention_mask: int64 [rows, length], of the prompts."""
        self.penalty, self.processors = params.repetition_penalty, processors
        self._ids, self._mask = input_ids, attention_mask
        self._seen: SeenTokens | None = None

    def __call__(self, scores: Array) -> Array:
        """Processed scores [rows, vocab]. Raises `InputError` for invalid results of a processor."""
        if self.penalty != 1.0:
            if self._seen is None:
                self._seen = SeenTokens(self._ids, self._mask, scores.shape[-1])
            scores = apply_repetition_penalty(scores, self._seen.mask, self.penalty)
        for processor in self.processors:
            scores = _validate_scores(processor(self._ids, scores), scores.shape)
        return scores

    def add(self, tokens: IntArray) -> None:
        """Append a token to every row, int64 [rows]."""
        if self._seen is not None:
            self._seen.add(tokens)
        if self.processors:
            self._ids = np.concatenate([self._ids, tokens[:, None]], axis=1)

    def select(self, rows: IntArray) -> None:
        """Reorder rows: row i becomes the former row `rows[i]`."""
        if self._seen is not None:
            self._seen.select(rows)
        if self.processors:
            self._ids = self._ids[rows]


def _validate_scores(scores: Array, shape: tuple[int, ...]) -> Array:
    scores = np.asarray(scores)
    if scores.shape != shape or scores.dtype.kind != "f":
        raise InputError(
            f"logits_processor returned {scores.dtype} {list(scores.shape)}: "
            f"expected scores, float {list(shape)}"
        )
    if np.isnan(scores).any() or not np.isfinite(scores.max(axis=-1)).all():
        raise InputError(
            "logits_processor returned NaN, or -inf for every token: use -inf only for forbidden tokens"
        )
    return scores
