"""The loop over a real model: what it yields equals what recomputing every prefix gives."""

import numpy as np
import pytest

from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams, generate, generate_batch
from tests.generation.numpy_model import NumpyBackend, logits_after

GREEDY = GenerationParams(do_sample=False, max_new_tokens=12)


def run(backend, ids, mask, params):
    return np.stack(list(generate(backend, np.array(ids), np.array(mask), params)), axis=1).tolist()


def greedy_by_recomputation(backend, prompt, steps, ends=()):
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(logits_after(backend, ids).argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


def test_greedy_equals_recomputing_every_prefix():
    backend = NumpyBackend()
    expected = greedy_by_recomputation(backend, [3, 1, 4], 12)
    assert len(set(expected)) > 2
    assert run(backend, [[3, 1, 4]], [[1, 1, 1]], GREEDY) == [expected]


def test_left_padding_changes_nothing():
    backend = NumpyBackend()
    alone = [run(backend, [row], [[1] * len(row)], GREEDY)[0] for row in ([3, 1, 4, 1], [5, 9])]
    together = run(backend, [[3, 1, 4, 1], [0, 0, 5, 9]], [[1, 1, 1, 1], [0, 0, 1, 1]], GREEDY)
    assert together == alone


def test_rows_stop_at_their_end_token_and_are_dropped():
    backend = NumpyBackend()
    prompts = [[3, 1], [4, 1], [5, 9]]
    free = [greedy_by_recomputation(backend, prompt, 12) for prompt in prompts]
    end = next(token for token in free[0] if token != free[0][0])
    params = GREEDY.updated({"eos_token_ids": (end,), "pad_token_id": 11})
    expected = [greedy_by_recomputation(backend, prompt, 12, (end,)) for prompt in prompts]
    width = max(map(len, expected))
    assert len(expected[0]) < width
    backend.steps.clear()
    out = run(backend, prompts, [[1, 1]] * 3, params)
    assert out == [row + [11] * (width - len(row)) for row in expected]
    assert [rows for rows, _ in backend.steps][-1] < 3
    assert generate_batch(backend, prompts, params) == [
        row[:-1] if row[-1] == end else row for row in expected
    ]


def test_several_end_tokens():
    backend = NumpyBackend()
    free = greedy_by_recomputation(backend, [3, 1], 12)
    params = GREEDY.updated({"eos_token_ids": (free[4], free[1])})
    assert run(backend, [[3, 1]], [[1, 1]], params)[0][-1] in (free[1], free[4])
    assert len(run(backend, [[3, 1]], [[1, 1]], params)[0]) <= 2


def test_repetition_penalty_equals_recomputation():
    backend = NumpyBackend()
    params = GREEDY.updated({"repetition_penalty": 1.7})
    ids = [3, 1, 4]
    for _ in range(12):
        scores = logits_after(backend, ids)
        for token in set(ids):
            scores[token] = scores[token] * 1.7 if scores[token] < 0 else scores[token] / 1.7
        ids.append(int(scores.argmax()))
    assert run(backend, [[0, 3, 1, 4]], [[0, 1, 1, 1]], params) == [ids[3:]]
    assert ids[3:] != greedy_by_recomputation(backend, [3, 1, 4], 12)


def test_sampling_repeats_with_a_seed_and_varies_without():
    backend = NumpyBackend(logit_scale=0.3)
    params = GenerationParams(seed=3, max_new_tokens=10)
    first = run(backend, [[3, 1]], [[1, 1]], params)
    assert run(backend, [[3, 1]], [[1, 1]], params) == first
    others = [run(backend, [[3, 1]], [[1, 1]], params.updated({"seed": None})) for _ in range(5)]
    assert any(other != first for other in others)


def test_length_counts_the_prompt_and_the_model_limits_it():
    backend = NumpyBackend(limit=9)
    assert len(run(backend, [[3, 1]], [[1, 1]], GenerationParams(do_sample=False, max_length=7))[0]) == 5
    assert len(run(backend, [[3, 1]], [[1, 1]], GenerationParams(do_sample=False))[0]) == 7
    with pytest.raises(InputError, match="limit of 9 tokens"):
        generate(backend, np.ones((1, 9), int), np.ones((1, 9), int), GREEDY)


def test_the_last_token_costs_no_step():
    backend = NumpyBackend()
    run(backend, [[3, 1, 4]], [[1, 1, 1]], GREEDY)
    assert backend.steps == [(1, 3)] + [(1, 1)] * 11


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [([[1, 2]], [[1]], "one shape"), ([], [], "one shape"), ([[1, 2]], [[1, 0]], "pad batches on the left"),
     ([[1, 99]], [[1, 1]], "token id 99"), ([[1, -1]], [[1, 1]], "token id -1")],
)  # fmt: skip
def test_inputs_that_cannot_work(ids, mask, message):
    with pytest.raises(InputError, match=message):
        list(generate(NumpyBackend(), np.array(ids), np.array(mask), GREEDY))


def test_broken_weights_are_an_error_not_an_answer():
    backend = NumpyBackend()
    backend.head[0, 0] = np.nan
    with pytest.raises(InputError, match="step 0, row 0"):
        run(backend, [[3, 1]], [[1, 1]], GREEDY)


class Follower(NumpyBackend):
    """A second process of a tensor-parallel pair, whose own random numbers do not count."""

    def __init__(self, decided, **kwargs):
        super().__init__(**kwargs)
        self.decided = iter(decided)

    def broadcast(self, values):
        return next(self.decided)


class Recorder(NumpyBackend):
    def broadcast(self, values):
        self.decisions.append(values.copy())
        return values


@pytest.mark.parametrize(
    "params", [{"max_new_tokens": 8}, {"do_sample": False, "num_beams": 3, "max_new_tokens": 8}]
)
def test_every_process_follows_the_one_that_decides(params):
    leader = Recorder(logit_scale=0.3)
    leader.decisions = []
    params = GenerationParams(**params, eos_token_ids=(5,))
    expected = run(leader, [[3, 1], [4, 4]], [[1, 1], [1, 1]], params)
    follower = Follower(leader.decisions, logit_scale=0.3)
    follower.head = follower.head + 1e-4  # sums in another order
    assert run(follower, [[3, 1], [4, 4]], [[1, 1], [1, 1]], params) == expected
