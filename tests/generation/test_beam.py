"""Beam search against brute force and against the textbook procedure over whole sequences."""

import itertools

import numpy as np
import pytest

from paddle_glm.generation import GenerationParams, generate
from paddle_glm.generation.beam import log_softmax
from tests.generation.numpy_model import NumpyBackend, logits_after


def run(backend, ids, params, mask=None):
    ids = np.array(ids)
    mask = np.ones_like(ids) if mask is None else np.array(mask)
    return np.stack(list(generate(backend, ids, mask, params)), axis=1).tolist()


def log_probabilities(backend, ids):
    return log_softmax(logits_after(backend, ids)[None])[0]


def beams(count, steps, **more):
    return GenerationParams(do_sample=False, num_beams=count, max_new_tokens=steps, **more)


@pytest.mark.parametrize("seed", range(4))
def test_wide_beams_find_the_best_of_all_sequences(seed):
    backend = NumpyBackend(vocab=4, seed=seed)
    steps = 4

    def score(tokens):
        ids, total = [1], 0.0
        for token in tokens:
            total += log_probabilities(backend, ids)[token]
            ids.append(token)
        return total / len(tokens)

    best = max(itertools.product(range(4), repeat=steps), key=score)
    assert run(backend, [[1]], beams(4**3, steps)) == [list(best)]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_wide_beams_find_the_best_answer_that_may_end(seed, length_penalty):
    """With beams for all, every sequence that ends is an answer, as is every one at full length."""
    backend = NumpyBackend(vocab=3, seed=seed)
    steps, end = 4, 2
    answers = {}
    frontier = [([], 0.0)]
    for length in range(1, steps + 1):
        longer = []
        for tokens, total in frontier:
            scores = total + log_probabilities(backend, [1, *tokens])
            for token in range(3):
                (answers if token == end or length == steps else {})[(*tokens, token)] = (
                    scores[token] / length**length_penalty
                )
                if token != end:
                    longer.append(([*tokens, token], scores[token]))
        frontier = longer
    best = max(answers, key=answers.get)
    params = beams(3**4, steps, eos_token_ids=(end,), length_penalty=length_penalty)
    assert run(backend, [[1]], params) == [list(best)]


def textbook(backend, prompt, params):
    """Beam search over whole sequences, without a cache, with transformers' bookkeeping of answers."""
    count, ends = params.num_beams, params.eos_token_ids
    open_beams, answers = [((), 0.0)], []

    def add(tokens, total, length):
        answers.append((total / length**params.length_penalty, tokens))
        answers.sort(key=lambda pair: -pair[0])
        del answers[count:]

    for step in range(1, params.max_new_tokens + 1):
        all_next = [
            (total + score, tokens, token)
            for tokens, total in open_beams
            for token, score in enumerate(log_probabilities(backend, [*prompt, *tokens]))
        ]
        all_next.sort(key=lambda item: -item[0])
        chosen = []
        for rank, (total, tokens, token) in enumerate(all_next):
            if token in ends:
                if rank < count:
                    add((*tokens, token), total, step)
                continue
            chosen.append(((*tokens, token), total))
            if len(chosen) == count:
                break
        open_beams = chosen
        if len(answers) >= count and (
            params.early_stopping or answers[-1][0] >= all_next[0][0] / step**params.length_penalty
        ):
            return list(answers[0][1])
    for tokens, total in open_beams:
        add(tokens, total, len(tokens))
    return list(answers[0][1])


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("length_penalty", [0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_equals_the_textbook(count, length_penalty, early_stopping):
    for seed in range(6):
        backend = NumpyBackend(vocab=9, seed=seed, logit_scale=0.7)
        params = beams(
            count, 8, eos_token_ids=(2, 5), length_penalty=length_penalty, early_stopping=early_stopping
        )
        expected = textbook(backend, [3, 1], params)
        assert run(backend, [[3, 1]], params) == [expected], seed


def test_rows_of_a_padded_batch_are_searched_on_their_own():
    backend = NumpyBackend(vocab=9, logit_scale=0.7)
    params = beams(3, 8, eos_token_ids=(2,), pad_token_id=0)
    alone = [run(backend, [row], params)[0] for row in ([3, 1, 4], [7])]
    together = run(backend, [[3, 1, 4], [0, 0, 7]], params, [[1, 1, 1], [0, 0, 1]])
    width = max(map(len, alone))
    assert together == [row + [0] * (width - len(row)) for row in alone]


def test_penalty_acts_on_log_probabilities():
    backend = NumpyBackend(vocab=9, logit_scale=0.7)
    plain, penalised = (
        run(backend, [[3, 1]], beams(3, 10, repetition_penalty=penalty)) for penalty in (1.0, 3.0)
    )
    assert len(set(penalised[0])) > len(set(plain[0]))


def test_the_prompt_runs_once_per_row():
    backend = NumpyBackend()
    run(backend, [[3, 1, 4]], beams(4, 3))
    assert backend.steps == [(1, 3), (4, 1), (4, 1)]
