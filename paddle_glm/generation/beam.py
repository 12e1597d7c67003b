"""Beam search, equal to `BeamSearchScorer` of transformers, on the same backends as sampling."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.generation.backend_protocol import GenerationBackend
from paddle_glm.generation.logits_processors import LogitsProcessor, LogitsProcessorList
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.sampling import check_finite, top_k_ids

# Below every real score: a row's beams begin equal, so the first step may continue only one of them.
_MASKED_SCORE = -1e9


class BeamHypotheses:
    """The best finished hypotheses of one row, at most `num_beams`, as (score, tokens)."""

    def __init__(self, params: GenerationParams) -> None:
        self.params = params
        self.beams: list[tuple[float, list[int]]] = []

    def score(self, log_probability: float, length: int) -> float:
        return log_probability / float(length**self.params.length_penalty)

    def add(self, log_probability: float, tokens: list[int]) -> None:
        """Add a hypothesis (its length includes the end token) if it is among the best."""
        score = self.score(log_probability, len(tokens))
        if len(self.beams) < self.params.num_beams or score > self.worst_score():
            self.beams.append((score, tokens))
            if len(self.beams) > self.params.num_beams:
                self.beams.remove(min(self.beams, key=lambda pair: pair[0]))

    def worst_score(self) -> float:
        return min(score for score, _ in self.beams)

    def best(self) -> list[int]:
        return max(self.beams, key=lambda pair: pair[0])[1]

    def is_done(self, best_log_probability: float, length: int) -> bool:
        """Whether no open beam can improve the result; the best one is scored at its current length."""
        if len(self.beams) < self.params.num_beams:
            return False
        return self.params.early_stopping or self.worst_score() >= self.score(best_log_probability, length)


@dataclass
class BeamState:
    """One row of the batch: its open beams, their log probabilities, and its finished hypotheses."""

    params: GenerationParams
    hypotheses: BeamHypotheses
    beams: list[list[int]]
    scores: Array = field(repr=False)
    done: bool = False

    @classmethod
    def initial(cls, params: GenerationParams) -> "BeamState":
        scores = np.full(params.num_beams, _MASKED_SCORE)
        scores[0] = 0.0
        return cls(params, BeamHypotheses(params), [[] for _ in range(params.num_beams)], scores)

    def advance(self, flat_indices: Array, scores: Array, vocab: int) -> tuple[list[int], list[int]]:
        """Advance with the best continuations, best first; return each new beam's parent and token.

        flat_indices (beam * vocab + token), scores: [n]. A finished continuation becomes a hypothesis only if
        it is among the `num_beams` best.
        """
        count = self.params.num_beams
        chosen: list[tuple[int, int, float]] = []
        for rank, (flat_index, score) in enumerate(zip(flat_indices.tolist(), scores.tolist(), strict=True)):
            parent, token = divmod(flat_index, vocab)
            if token not in self.params.eos_token_ids:
                chosen.append((parent, token, score))
            elif rank < count:
                self.hypotheses.add(score, [*self.beams[parent], token])
            if len(chosen) == count:
                break
        self.beams = [[*self.beams[parent], token] for parent, token, _ in chosen]
        self.scores = np.array([score for _, _, score in chosen])
        self.done = self.hypotheses.is_done(float(scores[0]), len(self.beams[0]))
        return [parent for parent, _, _ in chosen], [token for _, token, _ in chosen]

    def finish(self) -> list[int]:
        """The best hypothesis, including beams still open at the maximum length."""
        if not self.done:
            for beam, score in zip(self.beams, self.scores, strict=True):
                self.hypotheses.add(float(score), beam)
        return self.hypotheses.best()


def beam_search(
    backend: GenerationBackend,
    input_ids: IntArray,
    attention_mask: IntArray,
    params: GenerationParams,
    max_steps: int,
    processors: Sequence[LogitsProcessor] = (),
) -> Array:
    """The best hypothesis of each row, int64 [batch, length], right-padded after its end token.

    Prefill runs once per row, not once per beam. `repetition_penalty` and the caller's processors act on log
    probabilities, as in transformers; temperature, top-k and top-p are not used.
    """
    count = params.num_beams
    logits = backend.prefill(input_ids, attention_mask)
    vocab = logits.shape[-1]
    rows = [BeamState.initial(params) for _ in input_ids]
    copies = np.repeat(np.arange(len(rows)), count)
    backend.select(copies)
    logits = logits[copies]
    process = LogitsProcessorList(params, processors, input_ids[copies], attention_mask[copies])
    for step in range(max_steps):
        check_finite(logits, step)
        scores = process(log_softmax(logits))
        totals = scores.reshape(len(rows), count, vocab) + np.stack([row.scores for row in rows])[:, :, None]
        flat_indices, best = _broadcast_top_k(backend, totals.reshape(len(rows), -1), params)
        parents = np.arange(len(copies)).reshape(len(rows), count)
        tokens = np.full_like(parents, params.pad_token_id)
        for index, row in enumerate(rows):
            if not row.done:
                from_beams, tokens[index] = row.advance(flat_indices[index], best[index], vocab)
                parents[index] = index * count + np.array(from_beams)
        if all(row.done for row in rows) or step + 1 == max_steps:
            break
        backend.select(parents.reshape(-1))
        process.select(parents.reshape(-1))
        process.add(tokens.reshape(-1))
        logits = backend.decode(tokens.reshape(-1))
    return _right_pad([row.finish() for row in rows], params.pad_token_id)


def _broadcast_top_k(
    backend: GenerationBackend, totals: Array, params: GenerationParams
) -> tuple[IntArray, Array]:
    """Flat indices and scores [batch, n] of the best continuations, best first, equal on all ranks.

    n leaves `num_beams` continuations even if every beam's end tokens rank first. Scores are broadcast too,
    as
    bit patterns: ranks whose sums differ by rounding must not stop at different steps.
    """
    n = min(max(2, 1 + len(params.eos_token_ids)) * params.num_beams, totals.shape[-1])
    flat_indices = np.stack([top_k_ids(row, n)[:n] for row in totals])
    scores = np.take_along_axis(totals, flat_indices, axis=-1)
    broadcasted = backend.broadcast(np.stack([flat_indices, scores.view(np.int64)]))
    return broadcasted[0], broadcasted[1].view(np.float64)


def log_softmax(logits: Array) -> Array:
    """float64 [rows, vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalized: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


def _right_pad(sequences: list[list[int]], pad: int) -> IntArray:
    out = np.full((len(sequences), max(map(len, sequences))), pad, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = sequence
    return out
