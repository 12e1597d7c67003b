"""The dygraph backend against the originals' own greedy decoding, step by step."""

import json

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams, generate
from paddle_glm.models.dygraph import DygraphBackend
from tests.paths import reference

MODELS = ("chatglm2_6b_tiny_seed0", "chatglm2_6b_v1_tiny_seed0", "chatglm3_6b_tiny_seed0")


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    folder = reference(request.param)
    return folder, DygraphBackend(AutoModel.from_pretrained(folder / "hf"))


def count_steps(golden) -> int:
    return sum(name.endswith("_next") for name in golden.files)


@pytest.mark.parametrize("name", ["decode_single", "decode_leftpad"])
def test_every_step_is_the_originals(case, name):
    folder, backend = case
    golden = np.load(folder / f"{name}.npz")
    steps = count_steps(golden)
    logits = backend.prefill(golden["prompt_ids"], golden["step0_attention_mask"])
    largest = 0.0
    for step in range(steps):
        expected = golden[f"step{step}_logits"][:, -1]
        largest = max(largest, float(np.abs(logits - expected).max()))
        assert (logits.argmax(-1) == golden[f"step{step}_next"]).all()
        if step + 1 < steps:
            logits = backend.decode(golden[f"step{step}_next"])
    assert largest < 1e-5, largest


@pytest.mark.parametrize("name", ["decode_single", "decode_leftpad"])
def test_greedy_generation_is_the_originals(case, name):
    folder, backend = case
    golden = np.load(folder / f"{name}.npz")
    steps = count_steps(golden)
    params = GenerationParams(do_sample=False, max_new_tokens=steps)
    columns = list(generate(backend, golden["prompt_ids"], golden["step0_attention_mask"], params))
    assert [column.tolist() for column in columns] == [
        golden[f"step{step}_next"].tolist() for step in range(steps)
    ]


def test_selecting_rows_moves_their_past(case):
    _, backend = case
    ids = np.array([[5, 6, 7], [0, 8, 9]])
    mask = np.array([[1, 1, 1], [0, 1, 1]])
    rows = np.array([1, 0, 1])
    backend.prefill(ids, mask)
    straight = backend.decode(np.array([11, 12]))
    backend.prefill(ids, mask)
    backend.select(rows)
    moved = backend.decode(np.array([12, 11, 12]))
    np.testing.assert_allclose(moved, straight[rows], atol=1e-5)


def test_ids_of_another_tokenizer_are_refused(case):
    folder, backend = case
    vocab = json.loads((folder / "MANIFEST.json").read_text())["config"]["padded_vocab_size"]
    with pytest.raises(InputError, match=f"token id {vocab} is outside"):
        backend.prefill(np.array([[vocab]]), np.array([[1]]))


def test_a_model_in_training_mode_is_refused(case):
    _, backend = case
    backend.model.train()
    with pytest.raises(InputError, match=r"model\.eval"):
        backend.prefill(np.array([[5]]), np.array([[1]]))
    backend.model.eval()
