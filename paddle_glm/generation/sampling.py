"""Sampling: repetition penalty, temperature, top-k, top-p, draw.

Each step equals the corresponding class in transformers' `logits_process.py`. Ties are broken towards the
lower id, so that all programs agree.
"""

from dataclasses import dataclass

import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams


def check_finite(logits: FloatArray, step: int) -> None:
    """Raise `InputError` with step and row if logits [batch, vocab] are NaN or infinite.

    The originals continue with a fixed token instead, which generates noise.
    """
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if bad.size:
        raise InputError(
            f"the logits of generation step {step}, row {int(bad[0])} are not finite: the weights are "
            "damaged, or overflow in float16 (load the model in float32 or bfloat16)"
        )


class SeenTokens:
    """Which ids occur in each row, prompt included, padding excluded: bool [batch, vocab]."""

    def __init__(self, input_ids: IntArray, attention_mask: IntArray, vocab_size: int) -> None:
        self.mask = np.zeros((len(input_ids), vocab_size), dtype=bool)
        rows, columns = np.nonzero(attention_mask[:, -input_ids.shape[1] :])
        self.mask[rows, input_ids[rows, columns]] = True

    def add(self, tokens: IntArray) -> None:
        self.mask[np.arange(len(tokens)), tokens] = True

    def select(self, rows: IntArray) -> None:
        self.mask = self.mask[rows]


def apply_repetition_penalty(scores: Array, seen: Array, penalty: float) -> Array:
    """Divide scores [batch, vocab] of seen ids by `penalty`, multiply negative ones (arXiv:1909.05858)."""
    return np.where(seen, np.where(scores < 0, scores * penalty, scores / penalty), scores)


def top_k_ids(scores: Array, count: int) -> IntArray:
    """Ids of the `count` highest scores [vocab], best first, including ties with the last."""
    ids = np.arange(scores.size)
    if 0 < count < scores.size:
        ids = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return ids[np.argsort(-scores[ids], kind="stable")]


def top_k_top_p_filter(logits: FloatArray, params: GenerationParams) -> tuple[IntArray, Array]:
    """Candidate ids from logits [vocab], most likely first, and their normalised probabilities.

    Temperature, then top-k (ties with the k-th are kept), then top-p (the token that crosses the threshold is
    kept). In float64, so that cumulative probabilities do not depend on the vocabulary size.
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
    """The id at which the cumulative probability exceeds `uniform`, a number in [0, 1)."""
    ids, weights = top_k_top_p_filter(logits, params)
    place = int(np.searchsorted(np.cumsum(weights), uniform, side="right"))
    return int(ids[min(place, ids.size - 1)])


class Sampler:
    """Samples one token per row; owns the random state of one call.

    A row's random numbers depend only on the seed, its batch index and the step, not on which rows have
    finished.
    """

    def __init__(self, params: GenerationParams, batch: int) -> None:
        self.params = params
        self.batch = batch
        self.random = np.random.default_rng(params.seed)

    def sample(self, logits: FloatArray, rows: IntArray) -> IntArray:
        """Tokens int64 [n] from processed logits float32 [n, vocab]; `rows` [n]: their batch indices."""
        if not self.params.do_sample:
            best: IntArray = logits.argmax(axis=-1).astype(np.int64)
            return best
        uniforms = self.random.random(self.batch)[rows]
        picked = [
            sample_token(row, uniform, self.params) for row, uniform in zip(logits, uniforms, strict=True)
        ]
        return np.array(picked, dtype=np.int64)


@dataclass(frozen=True)
class TokenLogprobs:
    """The log probability of a token, and the `top` most likely ones at its place, best first.

    Of the model's own distribution: before penalties, temperature and truncation.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: FloatArray, token: int, count: int) -> TokenLogprobs:
    """Log probabilities of `token` and of the `count` most likely ones, from logits [vocab]."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    best = top_k_ids(scores, count)[:count] if count else ()
    return TokenLogprobs(token, float(scores[token]), tuple((int(one), float(scores[one])) for one in best))
