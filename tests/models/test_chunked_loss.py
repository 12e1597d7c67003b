"""The head's loss in chunks of tokens: the numbers of the loss of all logits, without these."""

import numpy as np
import paddle
import pytest
from paddle.autograd import saved_tensors_hooks

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import lm_head
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from tests.training.test_activations import FAMILY_SIZES, SIZES, batch

ROWS_PER_CHUNK = 23  # at most: 120 tokens make six chunks


def make(family: str, method: str) -> CausalLM:
    model = AutoModel.from_config(ModelConfig(family=family, **SIZES, **FAMILY_SIZES[family]), seed=3)
    if method != "full":
        if method == "int8":
            model.quantize(8, embeddings=True)
        attach_lora(model, LoraConfig(rank=4, dropout=0.0)).freeze_base_model()
    model.train()
    return model


def run(model: CausalLM, return_logits: bool) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the gradients, of a loss multiplied by 3."""
    ids = batch()
    labels = paddle.where(paddle.arange(ids.shape[1]) < 11, paddle.full_like(ids, -100), ids)
    output = model(ids, labels=labels, return_logits=return_logits)
    assert output.loss is not None and (output.logits is not None) == return_logits
    (3.0 * output.loss).backward()
    found = {name: one.grad.numpy() for name, one in model.named_parameters() if not one.stop_gradient}
    model.clear_gradients()
    return float(output.loss), found


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head, "CHUNK_BYTES", 4 * SIZES["vocab_size"] * ROWS_PER_CHUNK)
    monkeypatch.setattr(lm_head, "CHUNKED_FROM_BYTES_CPU", 0)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("method", ["full", "lora", "int8"])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_loss_and_gradients_are_those_of_all_logits(
    family: str, method: str, plain: bool, small_chunks: None, request: pytest.FixtureRequest
) -> None:
    """A tied head and one of its own, trained, frozen and quantised; Paddle's operators and the native."""
    if plain:
        request.getfixturevalue("plain_training")
    model = make(family, method)
    assert model.head().chunk_rows(batch().size) == 20
    (expected, gradients), (loss, found) = run(model, True), run(model, False)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert found.keys() == gradients.keys() and len(found) > 4
    for name, gradient in gradients.items():
        assert np.abs(found[name] - gradient).max() < 1e-6, name


def test_no_more_than_a_chunk_of_logits_exists(small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes, kept = make("chatglm2", "lora"), [], []
    whole = lm_head.LMHead.local_logits

    def measured(self: lm_head.LMHead, x: paddle.Tensor) -> paddle.Tensor:
        logits = whole(self, x)
        sizes.append(logits.size)
        return logits

    def keep(saved: paddle.Tensor) -> paddle.Tensor:
        kept.append(saved.size)
        return saved

    monkeypatch.setattr(lm_head.LMHead, "local_logits", measured)
    with saved_tensors_hooks(keep, lambda saved: saved):
        loss = model(batch(), labels=batch(), return_logits=False).loss
    loss.backward()
    assert sizes == 12 * [20 * SIZES["vocab_size"]]  # forward and backward
    assert max(kept) < batch().size * SIZES["vocab_size"]


def test_a_batch_without_labels_has_no_loss_and_no_gradient(small_chunks: None) -> None:
    model = make("chatglm2", "full")
    loss = model(batch(), labels=paddle.full_like(batch(), -100), return_logits=False).loss
    loss.backward()
    assert float(loss) == 0.0
    assert max(float(one.grad.abs().max()) for one in model.parameters()) == 0.0
