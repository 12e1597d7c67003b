"""Beam search, as `BeamSearchScorer` of transformers does it, over the same backend as the other loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.processors import LogitsProcessor, Processors
from paddle_glm.generation.sampling import best_ids, check_finite
from paddle_glm.generation.step_backend import StepBackend

# Below every real score: a row's beams begin equal, so the first step may continue only one of them.
_NEVER = -1e9


class Answers:
    """The best complete answers of one row, at most `num_beams`, as (score, tokens)."""

    def __init__(self, params: GenerationParams) -> None:
        self.params = params
        self.kept: list[tuple[float, list[int]]] = []

    def score(self, log_probability: float, length: int) -> float:
        return log_probability / length**self.params.length_penalty

    def add(self, log_probability: float, tokens: list[int]) -> None:
        """Keep an answer (its end token counts in its length) if it is among the best."""
        score = self.score(log_probability, len(tokens))
        if len(self.kept) < self.params.num_beams or score > self.worst():
            self.kept.append((score, tokens))
            if len(self.kept) > self.params.num_beams:
                self.kept.remove(min(self.kept, key=lambda pair: pair[0]))

    def worst(self) -> float:
        return min(score for score, _ in self.kept)

    def best(self) -> list[int]:
        return max(self.kept, key=lambda pair: pair[0])[1]

    def is_final(self, best_log_probability: float, length: int) -> bool:
        """Whether no open beam can enter any more; the best of them is judged at its present length."""
        if len(self.kept) < self.params.num_beams:
            return False
        return self.params.early_stopping or self.worst() >= self.score(best_log_probability, length)


@dataclass
class Row:
    """One row of the batch: its open beams, their log probabilities, and its complete answers."""

    params: GenerationParams
    answers: Answers
    beams: list[list[int]]
    scores: np.ndarray = field(repr=False)
    done: bool = False

    @classmethod
    def begin(cls, params: GenerationParams) -> "Row":
        scores = np.full(params.num_beams, _NEVER)
        scores[0] = 0.0
        return cls(params, Answers(params), [[] for _ in range(params.num_beams)], scores)

    def advance(self, places: np.ndarray, scores: np.ndarray, vocab: int) -> tuple[list[int], list[int]]:
        """Take one step with the best continuations, best first; returns each new beam's parent and token.

        places, scores [n]: a place is beam * vocab + token. A continuation that ends is an answer only
        if it is among the `num_beams` best.
        """
        count = self.params.num_beams
        chosen: list[tuple[int, int, float]] = []
        for rank, (place, score) in enumerate(zip(places.tolist(), scores.tolist(), strict=True)):
            parent, token = divmod(place, vocab)
            if token not in self.params.eos_token_ids:
                chosen.append((parent, token, score))
            elif rank < count:
                self.answers.add(score, [*self.beams[parent], token])
            if len(chosen) == count:
                break
        self.beams = [[*self.beams[parent], token] for parent, token, _ in chosen]
        self.scores = np.array([score for _, _, score in chosen])
        self.done = self.answers.is_final(float(scores[0]), len(self.beams[0]))
        return [parent for parent, _, _ in chosen], [token for _, token, _ in chosen]

    def finish(self) -> list[int]:
        """The best answer; beams that were still open when the length was reached take part."""
        if not self.done:
            for beam, score in zip(self.beams, self.scores, strict=True):
                self.answers.add(float(score), beam)
        return self.answers.best()


def beam_search(
    backend: StepBackend,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    params: GenerationParams,
    steps: int,
    processors: Sequence[LogitsProcessor] = (),
) -> np.ndarray:
    """The best answer of each row, int64 [batch, length], padded behind its end token.

    The prompt runs once per row, not once per beam. `repetition_penalty` and the caller's processors act on
    log probabilities, as in transformers; temperature, top-k and top-p are for sampling alone.
    """
    count = params.num_beams
    logits = backend.prefill(input_ids, attention_mask)
    vocab = logits.shape[-1]
    rows = [Row.begin(params) for _ in input_ids]
    copies = np.repeat(np.arange(len(rows)), count)
    backend.select(copies)
    logits = logits[copies]
    process = Processors(params, processors, input_ids[copies], attention_mask[copies])
    for step in range(steps):
        check_finite(logits, step)
        scores = process(log_softmax(logits))
        totals = scores.reshape(len(rows), count, vocab) + np.stack([row.scores for row in rows])[:, :, None]
        places, best = _agreed_best(backend, totals.reshape(len(rows), -1), params)
        parents = np.arange(len(copies)).reshape(len(rows), count)
        tokens = np.full_like(parents, params.pad_token_id)
        for index, row in enumerate(rows):
            if not row.done:
                from_beams, tokens[index] = row.advance(places[index], best[index], vocab)
                parents[index] = index * count + np.array(from_beams)
        if all(row.done for row in rows) or step + 1 == steps:
            break
        backend.select(parents.reshape(-1))
        process.select(parents.reshape(-1))
        process.add(tokens.reshape(-1))
        logits = backend.decode(tokens.reshape(-1))
    return _padded([row.finish() for row in rows], params.pad_token_id)


def _agreed_best(
    backend: StepBackend, totals: np.ndarray, params: GenerationParams
) -> tuple[np.ndarray, np.ndarray]:
    """Places and scores [batch, n] of the best continuations, best first, the same in every process.

    n leaves `num_beams` continuations even if every beam's end tokens come first. Scores travel as bit
    patterns: processes that summed in another order must not stop at another step.
    """
    n = min(max(2, 1 + len(params.eos_token_ids)) * params.num_beams, totals.shape[-1])
    places = np.stack([best_ids(row, n)[:n] for row in totals])
    scores = np.take_along_axis(totals, places, axis=-1)
    agreed = backend.agree(np.stack([places, scores.view(np.int64)]))
    return agreed[0], agreed[1].view(np.float64)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [rows, vocab]."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _padded(sequences: list[list[int]], pad: int) -> np.ndarray:
    out = np.full((len(sequences), max(map(len, sequences))), pad, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = sequence
    return out
