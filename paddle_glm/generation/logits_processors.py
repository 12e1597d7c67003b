"""What changes scores before a token is chosen: the repetition penalty, then processors of the caller's."""

from collections.abc import Callable, Sequence

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.sampling import SeenTokens, apply_repetition_penalty

LogitsProcessor = Callable[[IntArray, Array], Array]
"""(ids int64 [rows, length], scores [rows, vocab]) -> scores, as in transformers: -inf forbids a token.

The ids are the prompt's, left padding included, and the answer's; scores are logits, in beam search log
probabilities.
"""


class LogitsProcessorList:
    """All of them for the rows of one call, with what they have to know of these rows."""

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
        """Scores [rows, vocab] to choose by; raises `InputError` for what a processor must not give."""
        if self.penalty != 1.0:
            if self._seen is None:
                self._seen = SeenTokens(self._ids, self._mask, scores.shape[-1])
            scores = apply_repetition_penalty(scores, self._seen.mask, self.penalty)
        for processor in self.processors:
            scores = _validate_scores(processor(self._ids, scores), scores.shape)
        return scores

    def add(self, tokens: IntArray) -> None:
        """Every row goes on with a token, int64 [rows]."""
        if self._seen is not None:
            self._seen.add(tokens)
        if self.processors:
            self._ids = np.concatenate([self._ids, tokens[:, None]], axis=1)

    def select(self, rows: IntArray) -> None:
        """Row i becomes what row `rows[i]` was."""
        if self._seen is not None:
            self._seen.select(rows)
        if self.processors:
            self._ids = self._ids[rows]


def _validate_scores(scores: Array, shape: tuple[int, ...]) -> Array:
    scores = np.asarray(scores)
    if scores.shape != shape or scores.dtype.kind != "f":
        raise InputError(
            f"logits_processor gave {scores.dtype} {list(scores.shape)}: expected scores, float {list(shape)}"
        )
    if np.isnan(scores).any() or not np.isfinite(scores.max(axis=-1)).all():
        raise InputError(
            "logits_processor gave NaN, or -inf for every token: -inf is for those that are forbidden"
        )
    return scores
