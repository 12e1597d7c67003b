"""Each processor against a direct computation from its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.sampling import (
    Sampler,
    SeenTokens,
    apply_repetition_penalty,
    check_finite,
    sample_token,
    top_k_ids,
    top_k_top_p_filter,
)

LOGITS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-20, 20, width=32))


def dense(logits: np.ndarray, params: GenerationParams) -> np.ndarray:
    ids, weights = top_k_top_p_filter(logits, params)
    out = np.zeros(logits.size)
    out[ids] = weights
    return out


def by_definition(logits: np.ndarray, params: GenerationParams) -> np.ndarray:
    """Temperature, top-k, top-p over sorted lists, one rule at a time, as the definitions read."""
    scores = (logits.astype(np.float64) / params.temperature).tolist()
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    if params.top_k:
        kth = scores[order[min(params.top_k, len(order)) - 1]]
        order = [index for index in order if scores[index] >= kth]
    top = max(scores)
    total = sum(np.exp(scores[index] - top) for index in order)
    kept, mass = [], 0.0
    for index in order:
        if kept and params.top_p < 1 and mass >= params.top_p:
            break
        kept.append(index)
        mass += np.exp(scores[index] - top) / total
    out = np.zeros(len(scores))
    for index in kept:
        out[index] = np.exp(scores[index] - top)
    return out / out.sum()


@given(LOGITS, st.floats(0.1, 3), st.integers(0, 45), st.floats(0.05, 1))
def test_filtered_probabilities_follow_the_definitions(logits, temperature, top_k, top_p):
    params = GenerationParams(temperature=temperature, top_k=top_k, top_p=top_p)
    ids, weights = top_k_top_p_filter(logits, params)
    # A mass that equals top_p up to rounding may go either way.
    np.testing.assert_allclose(weights.sum(), 1)
    expected = by_definition(logits, params)
    if np.count_nonzero(expected) == ids.size:
        np.testing.assert_allclose(dense(logits, params), expected, atol=1e-12)
    else:
        near = GenerationParams(temperature=temperature, top_k=top_k, top_p=min(top_p * (1 + 1e-9), 1.0))
        also = GenerationParams(temperature=temperature, top_k=top_k, top_p=top_p * (1 - 1e-9))
        assert ids.size in {np.count_nonzero(by_definition(logits, p)) for p in (near, also)}


def test_the_token_that_passes_the_threshold_stays():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    for top_p, kept in [(0.01, 1), (0.5 - 1e-6, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)]:
        ids, _ = top_k_top_p_filter(logits, GenerationParams(temperature=1.0, top_k=0, top_p=top_p))
        assert ids.tolist() == list(range(kept)), top_p


def test_a_mass_that_equals_the_threshold_is_enough():
    logits = np.log(2.0) * np.array([2, 1, 1])  # probabilities 1/2, 1/4, 1/4
    for top_p, kept in [(0.5, 1), (0.75, 2)]:
        ids, _ = top_k_top_p_filter(logits, GenerationParams(temperature=1.0, top_k=0, top_p=top_p))
        assert ids.size == kept


def test_ties_with_the_kth_stay_and_lower_ids_come_first():
    logits = np.array([1.0, 3.0, 2.0, 2.0, 0.0, 2.0])
    assert top_k_ids(logits, 2).tolist() == [1, 2, 3, 5]
    ids, _ = top_k_top_p_filter(logits, GenerationParams(top_k=2, top_p=1.0))
    assert ids.tolist() == [1, 2, 3, 5]


def test_temperature_divides():
    logits = np.array([0.0, 1.0])
    for temperature in (0.5, 2.0):
        params = GenerationParams(temperature=temperature, top_k=0, top_p=1.0)
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        np.testing.assert_allclose(dense(logits, params), expected)


def test_draws_have_the_filtered_distribution():
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1])).astype(np.float32)
    params = GenerationParams(temperature=0.7, top_k=3, top_p=1.0, seed=1)
    draws = 20_000
    sampler = Sampler(params, draws)
    picked = sampler.sample(np.tile(logits, (draws, 1)), np.arange(draws))
    frequencies = np.bincount(picked, minlength=4) / draws
    expected = dense(logits, params)
    assert frequencies[3] == 0
    assert np.abs(frequencies - expected).max() < 4 * np.sqrt(0.25 / draws)


def test_a_uniform_number_picks_by_cumulated_probability():
    logits = np.log(np.array([0.2, 0.5, 0.3]))
    params = GenerationParams(temperature=1.0, top_k=0, top_p=1.0)
    picks = [sample_token(logits, uniform, params) for uniform in (0.0, 0.49, 0.51, 0.79, 0.81, 1 - 1e-16)]
    assert picks == [1, 1, 2, 2, 0, 0]


def test_one_seed_one_answer_whatever_rows_are_left():
    logits = np.zeros((4, 50), np.float32)
    params = GenerationParams(seed=7)
    first = Sampler(params, 4).sample(logits, np.arange(4))
    assert (Sampler(params, 4).sample(logits, np.arange(4)) == first).all()
    assert (Sampler(params, 4).sample(logits[:2], np.array([1, 3])) == first[[1, 3]]).all()
    assert (Sampler(GenerationParams(seed=8), 4).sample(logits, np.arange(4)) != first).any()


def test_greedy_takes_the_best():
    logits = np.array([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]], np.float32)
    assert Sampler(GenerationParams(do_sample=False), 2).sample(logits, np.arange(2)).tolist() == [1, 0]


def test_penalty_acts_on_seen_tokens_once_and_not_on_padding():
    ids = np.array([[0, 0, 3, 3], [1, 2, 3, 1]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    seen = SeenTokens(ids, mask, 5)
    scores = np.array([[1.0, -1.0, 2.0, -2.0, 4.0], [1.0, -1.0, 2.0, -2.0, 4.0]])
    out = apply_repetition_penalty(scores, seen.mask, 2.0)
    assert out.tolist() == [[1.0, -1.0, 2.0, -4.0, 4.0], [1.0, -2.0, 1.0, -4.0, 4.0]]
    seen.add(np.array([4, 0]))
    seen.select(np.array([1, 0]))
    assert apply_repetition_penalty(scores, seen.mask, 2.0).tolist() == [
        [0.5, -2.0, 1.0, -4.0, 4.0],
        [1.0, -1.0, 2.0, -4.0, 2.0],
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_name_step_and_row(value):
    logits = np.zeros((3, 4))
    logits[1, 2] = value
    with pytest.raises(InputError, match="step 5, row 1"):
        check_finite(logits, 5)
