"""What training keeps between forward and backward: counted tensor by tensor, against the formula."""

import numpy as np
import paddle
import pytest
from paddle.autograd import saved_tensors_hooks

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.kernels.library import kernel_library
from paddle_glm.layers import norm
from paddle_glm.layers.recompute import GRANULARITIES
from paddle_glm.parallel import layers
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.training import activation_memory
from paddle_glm.training.activation_memory import (
    MicroBatchSpec,
    kept_block_bytes,
    saved_activation_bytes,
    saved_head_bytes,
)

ROWS, TOKENS = 3, 40
SIZES = {
    "num_layers": 5,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": 16,
    "vocab_size": 300,
    "max_sequence_length": 64,
}
FAMILY_SIZES = {
    "chatglm2": {"num_key_value_heads": 2, "ffn_hidden_size": 96},
    "chatglm": {
        "num_key_value_heads": 4,
        "ffn_hidden_size": 256,
        "position_encoding_2d": True,
        **{"bos_token_id": 294, "eos_token_id": 295, "gmask_token_id": 291, "mask_token_id": 290},
    },
}
METHODS = ("full", "lora", "thin_lora", "prefix")


def make(family: str, method: str):
    """A model in training, LoRA's configuration or None, and the parameters that are trained."""
    model = AutoModel.from_config(ModelConfig(family=family, **SIZES, **FAMILY_SIZES[family]))
    lora = adapter = None
    if method.endswith("lora"):
        targets = ("query_key_value",) if method == "thin_lora" else LoraConfig().target_modules
        lora = LoraConfig(rank=4, dropout=0.1 if method == "lora" else 0.0, target_modules=targets)
        adapter = attach_lora(model, lora)
    elif method == "prefix":
        adapter = attach_prefix(model, 6, projection=False, dropout=0.0)
    if adapter is not None:
        adapter.freeze_base_model()
    model.train()
    trained = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
    return model, lora, trained


def batch() -> paddle.Tensor:
    ids = np.random.default_rng(0).integers(10, 280, (ROWS, TOKENS))
    ids[:, 8], ids[:, 9] = 291, 294  # ChatGLM-6B's [gMASK] <sop>
    return paddle.to_tensor(ids)


def count_saved_bytes(model) -> int:
    """Bytes of all tensors that a forward keeps for backward, each memory once, without parameters."""
    own = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor  # held, so that no other tensor takes its place
        return tensor

    ids = batch()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, labels=ids)
    return sum(tensor.size * tensor.element_size() for place, tensor in kept.items() if place not in own)


def micro_batch_spec(model, lora, method, **changes) -> MicroBatchSpec:
    values = {
        "config": model.config,
        "batch_size": ROWS,
        "seq_length": TOKENS,
        "degree": 1,
        "compute_itemsize": 4,
        "residual_itemsize": 4,
        "full_finetuning": method == "full",
        "lora": lora,
        "recompute": False,
    }
    return MicroBatchSpec(**{**values, **changes})


@pytest.mark.usefixtures("plain_training")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_the_formula_counts_what_is_kept(family, method):
    """Rotary tables, masks and labels, which blocks share, are all that it leaves out here."""
    model, lora, _ = make(family, method)
    step = micro_batch_spec(model, lora, method)
    assert saved_activation_bytes(step) + saved_head_bytes(step) == pytest.approx(
        count_saved_bytes(model), rel=0.02
    )


@pytest.mark.usefixtures("plain_training", "blockwise")
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_the_formula_counts_what_is_kept_by_blocks(family, monkeypatch):
    monkeypatch.setattr(activation_memory, "BLOCKWISE_TOKENS", 1)
    test_the_formula_counts_what_is_kept(family, "lora")


@pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++")
@pytest.mark.parametrize("method", METHODS)
def test_native_operators_keep_less(method):
    model, lora, _ = make("chatglm2", method)
    step = micro_batch_spec(model, lora, method)
    formula = saved_activation_bytes(step) + saved_head_bytes(step)
    assert 0.8 * formula < count_saved_bytes(model) < 0.96 * formula


@pytest.mark.usefixtures("plain_training")
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_recomputing_keeps_the_inputs_of_blocks(family):
    model, lora, _ = make(family, "full")
    model.enable_recompute()
    step = micro_batch_spec(model, lora, "full")
    inputs = SIZES["num_layers"] * ROWS * TOKENS * SIZES["hidden_size"] * 4
    mask = 4 * ROWS * TOKENS * TOKENS
    assert inputs + mask + saved_head_bytes(step) == pytest.approx(count_saved_bytes(model), rel=0.05)


@pytest.mark.usefixtures("plain_training")
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", ["full", "lora", "prefix"])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_recomputed_parts(family, method, granularity):
    """Gradients are those without recomputation, dropout included, and the formula counts what is kept."""
    model, lora, trained = make(family, method)
    step = micro_batch_spec(model, lora, method, recompute=True, recompute_granularity=granularity)
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.enable_recompute(granularity)
        paddle.seed(5)
        model(batch(), labels=batch()).loss.backward()
        gradients.append({name: value.grad.numpy() for name, value in trained.items()})
        model.clear_gradients()
    for name, value in gradients[0].items():
        assert np.abs(gradients[1][name] - value).max() < 1e-6, name
    kept = SIZES["num_layers"] * kept_block_bytes(step) + saved_head_bytes(step)
    shared = 4 * ROWS * TOKENS * TOKENS  # the mask
    if method == "prefix":
        shared += 4 * ROWS * 6 * 2 * SIZES["num_layers"] * 16 * FAMILY_SIZES[family]["num_key_value_heads"]
    assert count_saved_bytes(model) == pytest.approx(kept + shared, rel=0.05)


def test_a_part_that_is_not_known_is_refused():
    model, *_ = make("chatglm2", "full")
    with pytest.raises(InputError, match="recompute_granularity 'mlp': expected full, full_attn, core_attn"):
        model.enable_recompute("mlp")


@pytest.mark.parametrize("method", ["lora", "thin_lora", "prefix"])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_inputs_of_frozen_layers_are_not_kept(family, method, monkeypatch):
    """Gradients are those of the plain operators, which keep both factors."""

    def run(model, trained):
        paddle.seed(5)
        ids = batch()
        model(ids, labels=ids).loss.backward()
        found = {name: value.grad.numpy() for name, value in trained.items()}
        for value in trained.values():
            value.clear_gradient(False)
        return found

    model, _, trained = make(family, method)
    for value in trained.values():  # LoRA's B begins as zeros, which give A no gradient
        value.set_value(paddle.randn(value.shape) * 0.1)
    less, gradients = count_saved_bytes(model), run(model, trained)
    for module in (layers, norm):
        monkeypatch.setattr(module, "input_grad_only", lambda weight, x: False)
    more, expected = count_saved_bytes(model), run(model, trained)
    assert less < (0.8 if method == "prefix" else 0.95) * more
    for name, value in expected.items():
        assert np.abs(gradients[name] - value).max() <= 1e-6 * max(1.0, np.abs(value).max()), name


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_nothing_is_kept_below_what_is_trained(method):
    """The first block's norm, behind a frozen embedding, and for a prefix its queries' rotation too."""
    model, lora, trained = make("chatglm2", method)
    step = micro_batch_spec(model, lora, method)
    whole = SIZES["num_layers"] * (
        saved_activation_bytes(micro_batch_spec(model, lora, method)) // SIZES["num_layers"]
    )
    assert count_saved_bytes(model) < whole + saved_head_bytes(step) + 4 * ROWS * TOKENS * 64
    model.eval()
    for value in trained.values():
        value.stop_gradient = True
    assert count_saved_bytes(model) == 0
