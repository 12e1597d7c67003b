"""From logits to the next token: penalty -> temperature -> top-k -> top-p -> draw.

Each part computes what the class of the same purpose in transformers' `logits_process.py` computes.
Where values tie, the lower id counts as the more likely one, so that every program agrees.
"""

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams


def check_finite(logits: FloatArray, step: int) -> None:
    """Raise `InputError` naming step and row where logits [batch, vocab] are NaN or infinite.

    The originals replace such logits by a fixed token and go on; an answer made that way is noise.
    """
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if bad.size:
        raise InputError(
            f"the logits of generation step {step}, row {int(bad[0])} are not finite: the weights are "
            "damaged, or overflow in float16 (load the model in float32 or bfloat16)"
        )


class SeenTokens:
    """Which ids each row has held so far, prompt included and padding left out: bool [batch, vocab]."""

    def __init__(self, input_ids: IntArray, attention_mask: IntArray, vocab_size: int) -> None:
        self.mask = np.zeros((len(input_ids), vocab_size), dtype=bool)
        rows, columns = np.nonzero(attention_mask[:, -input_ids.shape[1] :])
        self.mask[rows, input_ids[rows, columns]] = True

    def add(self, tokens: IntArray) -> None:
        self.mask[np.arange(len(tokens)), tokens] = True

    def select(self, rows: IntArray) -> None:
        self.mask = self.mask[rows]


def apply_repetition_penalty(scores: Array, seen: Array, penalty: float) -> Array:
    """Scores [batch, vocab] with those of seen ids divided by `penalty` (multiplied where negative)."""
    return np.where(seen, np.where(scores < 0, scores * penalty, scores / penalty), scores)


def top_k_ids(scores: Array, count: int) -> IntArray:
    """Ids of the `count` highest of scores [vocab], and of all that tie with the last, best first."""
    ids = np.arange(scores.size)
    if 0 < count < scores.size:
        ids = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return ids[np.argsort(-scores[ids], kind="stable")]


def top_k_top_p_filter(logits: FloatArray, params: GenerationParams) -> tuple[IntArray, Array]:
    """The ids that may be drawn from logits [vocab], most likely first, and their probabilities (sum 1).

    Temperature, then top-k (all that tie with the k-th stay), then top-p (the token that passes the
    threshold stays). float64, so that the cumulated probability does not depend on the vocabulary's size.
    """
    scores = logits.astype(np.float64) / params.temperature
    ids = top_k_ids(scores, params.top_k or scores.size)
    weights = np.exp(scores[ids] - scores[ids[0]])
    ids, weights = ids[weights > 0], weights[weights > 0] / weights.sum()
    if params.top_p < 1.0:
        before = np.cumsum(weights) - weights
        keep = max(int(np.searchsorted(before, params.top_p, side="left")), 1)
        ids, weights = ids[:keep], weights[:keep] / weights[:keep].sum()
    return ids, weights


def sample_token(logits: FloatArray, uniform: float, params: GenerationParams) -> int:
    """The id at which the cumulated probability of the candidates passes `uniform` in [0, 1)."""
    ids, weights = top_k_top_p_filter(logits, params)
    place = int(np.searchsorted(np.cumsum(weights), uniform, side="right"))
    return int(ids[min(place, ids.size - 1)])


class Sampler:
    """Picks one token per row; owns the random numbers of one call.

    A row's random numbers depend on the seed, its place in the batch and the step alone, not on which
    other rows are complete.
    """

    def __init__(self, params: GenerationParams, batch: int) -> None:
        self.params = params
        self.batch = batch
        self.random = np.random.default_rng(params.seed)

    def sample(self, logits: FloatArray, rows: IntArray) -> IntArray:
        """Tokens int64 [n] from penalised logits float32 [n, vocab] of the batch's `rows` [n]."""
        if not self.params.do_sample:
            best: IntArray = logits.argmax(axis=-1).astype(np.int64)
            return best
        uniforms = self.random.random(self.batch)[rows]
        picked = [
            sample_token(row, uniform, self.params) for row, uniform in zip(logits, uniforms, strict=True)
        ]
        return np.array(picked, dtype=np.int64)
