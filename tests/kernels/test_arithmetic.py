"""Models with activations rounded to int8, the default of inference, against float32 arithmetic."""

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.kernels.library import asked_arithmetic, kernel_library
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel.kernel_weights import TRAINING_ARITHMETIC
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels")
IDS = np.random.default_rng(1).integers(5, 500, (2, 40))
WAYS = ((8, None), (4, None), (4, 32))
# Of the logits' largest, with activations of 8 bits: a rounding error of 1/254 of the largest per product.
BOUND = 0.03


@pytest.fixture(params=WAYS)
def model(request, tiny_checkpoint) -> CausalLM:
    return AutoModel.from_pretrained(tiny_checkpoint).quantize(*request.param)


def logits(model: CausalLM) -> np.ndarray:
    backend = DygraphBackend(model)
    steps = [backend.prefill(IDS, np.ones_like(IDS)), backend.decode(np.array([5, 6]))]
    return np.stack(steps)


@pytest.mark.parametrize("arithmetic", ["int8", "bfloat16", ""])
def test_logits_are_close_to_those_of_float32(model, arithmetic, monkeypatch):
    exact = logits(model)
    monkeypatch.setenv("PADDLE_GLM_ARITHMETIC", arithmetic)
    assert np.abs(logits(model) - exact).max() < BOUND * np.abs(exact).max()


def test_training_takes_its_own_arithmetic(model, monkeypatch):
    """The loss and its gradients do not depend on what inference is set to."""
    adapter = attach_lora(model, LoraConfig(rank=4), seed=1)
    adapter.freeze_base_model()
    model.train()
    ids = paddle.to_tensor(IDS)
    found = []
    for arithmetic in ("float32", "int8"):
        monkeypatch.setenv("PADDLE_GLM_ARITHMETIC", arithmetic)
        loss = model(ids, labels=ids).loss
        loss.backward()
        with paddle.no_grad():
            recomputed = model(ids, labels=ids).loss
        assert float(recomputed) == float(loss)
        found.append([float(loss), *(one.grad.numpy() for _, one in adapter.parameters())])
        model.clear_gradients()
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert TRAINING_ARITHMETIC == "float32"


def test_generation(model, monkeypatch):
    monkeypatch.setenv("PADDLE_GLM_ARITHMETIC", "int8")
    out = model.generate(paddle.to_tensor(IDS), max_new_tokens=8, do_sample=False).numpy()
    assert out.shape == (2, 48)
    np.testing.assert_array_equal(out[:, :40], IDS)


@pytest.mark.parametrize("asked", ["int9", "INT8"])
def test_an_arithmetic_that_is_none(asked, monkeypatch):
    monkeypatch.setenv("PADDLE_GLM_ARITHMETIC", asked)
    with pytest.raises(InputError, match=f"{asked}: expected one of auto, int8, bfloat16, float32"):
        asked_arithmetic()
