"""Prefixes beside what the references do not cover: packing, beams, their first numbers, refusals."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.prefix import attach_prefix, load_prefix


@pytest.fixture
def model(tiny_checkpoint: Path) -> CausalLM:
    return AutoModel.from_pretrained(tiny_checkpoint)


def test_every_sample_of_a_packed_row_sees_the_prefix(model: CausalLM) -> None:
    plain = model(paddle.arange(50, 56).unsqueeze(0)).logits
    attach_prefix(model, 4, projection=False)
    first, second = np.arange(3, 11), np.arange(50, 56)
    ids = np.concatenate([first, second])[None]
    places = np.concatenate([np.arange(8), np.arange(6)])[None]
    mask = np.repeat([1, 2], [8, 6])[None]
    packed = model(*map(paddle.to_tensor, (ids, places, mask))).logits.numpy()[0]
    alone = [model(paddle.to_tensor(row[None])).logits.numpy()[0] for row in (first, second)]
    assert np.abs(packed - np.concatenate(alone)).max() < 2e-6
    assert np.abs(packed[8:] - plain.numpy()[0]).max() > 1e-3


def test_answers_do_not_depend_on_the_batch(model: CausalLM) -> None:
    attach_prefix(model, 4, projection=True)
    prompts = [[5, 6, 7, 8, 9], [10, 11], [300]]
    for params in (
        GenerationParams(max_new_tokens=8, do_sample=False),
        GenerationParams(max_new_tokens=8, do_sample=False, num_beams=3),
    ):
        backend = DygraphBackend(model)
        together = generate_batch(backend, prompts, params)
        assert together == [generate_batch(backend, [prompt], params)[0] for prompt in prompts]
    ids = paddle.to_tensor([prompts[0]])
    generated = model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=[])
    logits = model(generated[:, :-1]).logits[:, 4:]
    assert (logits.argmax(-1) == generated[:, 5:]).all()


def test_a_prefix_begins_as_the_originals_do(model: CausalLM, tiny_checkpoint: Path) -> None:
    adapter = attach_prefix(model, 64, projection=True, seed=3)
    values = {name.rpartition("prefix_encoder.")[2]: p.numpy() for name, p in adapter.parameters()}
    assert values["embedding.weight"].std() == pytest.approx(1, abs=0.02)
    width = values["trans.0.weight"].shape[1]
    assert np.abs(values["trans.0.weight"]).max() == pytest.approx(width**-0.5, rel=0.01)
    other = attach_prefix(AutoModel.from_pretrained(tiny_checkpoint), 64, projection=True, seed=3)
    for (_, ours), (_, theirs) in zip(adapter.parameters(), other.parameters(), strict=True):
        assert (ours == theirs).all()


def test_saved_and_loaded(model: CausalLM, tiny_checkpoint: Path, tmp_path: Path) -> None:
    attach_prefix(model, 4, projection=False).save(tmp_path)
    again = AutoModel.from_pretrained(tiny_checkpoint, ptuning_checkpoint=tmp_path)
    ids = paddle.to_tensor([[5, 6, 7]])
    assert (again(ids).logits == model(ids).logits).all()
    with pytest.raises(InputError, match="pre_seq_len 4"):
        attach_prefix(again, 5, projection=False)
    load_prefix(again, tmp_path)


def test_keys_and_values_are_dropped_out_in_training_only(model: CausalLM) -> None:
    attach_prefix(model, 32, projection=False, dropout=0.5)
    assert model.prefix_cache is not None
    model.train()
    pairs = model.prefix_cache.key_values(2)
    share = float(np.mean([(tensor == 0).astype("float32").mean() for pair in pairs for tensor in pair]))
    assert share == pytest.approx(0.5, abs=0.05)
    model.eval()
    assert not any(bool((tensor == 0).any()) for pair in model.prefix_cache.key_values(2) for tensor in pair)
