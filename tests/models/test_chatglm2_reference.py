"""ChatGLM2 and ChatGLM3 against what the originals compute in float32."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.layers.norm import RMSNorm
from paddle_glm.layers.rotary import apply_rotary_interleaved, rotary_cos_sin, rotary_table
from paddle_glm.models.base import CausalLM
from tests.paths import reference

FAMILIES = {
    "chatglm2_6b_tiny_seed0": "chatglm2",
    "chatglm2_6b_v1_tiny_seed0": "chatglm2",
    "chatglm3_6b_tiny_seed0": "chatglm3",
}
# Largest differences seen: logits 9.2e-6 (chunked prefill 1.05e-5), loss 1.4e-6, gradients 2.4e-6.
# The originals themselves are 7.0e-6 away from the same computation in float64.
LOGITS, CHUNKED, GRADIENTS = 1e-5, 1.2e-5, 5e-6
# Hidden states reach 29, where float32 numbers are 1.9e-6 apart: differences relative to the largest.
RELATIVE = 3e-6


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest) -> Path:
    return reference(request.param)


@pytest.fixture
def model(folder: Path) -> CausalLM:
    return AutoModel.from_pretrained(folder / "hf_safetensors", family=FAMILIES[folder.name])


def tensors(path: Path, *names: str) -> list[paddle.Tensor]:
    arrays = np.load(path)
    return [paddle.to_tensor(arrays[name]) for name in names]


def difference(ours: paddle.Tensor, theirs: np.ndarray) -> float:
    assert list(ours.shape) == list(theirs.shape)
    return float(np.abs(ours.numpy() - theirs).max())


def cache_difference(present, arrays, prefix: str = "past") -> float:
    """Ours is [batch, groups, length, dim], theirs [length, batch, groups, dim]; relative to the largest."""
    return max(
        difference(tensor.transpose([2, 0, 1, 3]), arrays[f"{prefix}_{layer}_{kind}"])
        / np.abs(arrays[f"{prefix}_{layer}_{kind}"]).max()
        for layer, pair in enumerate(present)
        for kind, tensor in zip(("key", "value"), pair, strict=True)
    )


def test_full_forward(model: CausalLM, folder: Path) -> None:
    expected = np.load(folder / "full_single.npz")
    out = model(paddle.to_tensor(expected["input_ids"]), use_cache=True, output_hidden_states=True)
    assert difference(out.logits, expected["logits"]) < LOGITS
    assert len(out.hidden_states) == model.config.num_layers + 1
    for index, hidden in enumerate(out.hidden_states):
        theirs = expected[f"hidden_{index}"]  # (tokens, batch, hidden)
        assert difference(hidden.transpose([1, 0, 2]), theirs) < RELATIVE * np.abs(theirs).max()
    assert cache_difference(out.past_key_values, expected) < RELATIVE


def test_left_padded_batch(model: CausalLM, folder: Path) -> None:
    path = folder / "full_leftpad.npz"
    expected = np.load(path)
    out = model(*tensors(path, "input_ids", "position_ids", "attention_mask"), use_cache=True)
    assert difference(out.logits, expected["logits"]) < LOGITS
    assert cache_difference(out.past_key_values, expected) < RELATIVE
    ids, mask = expected["input_ids"], expected["attention_mask"]
    given = model.family.step_inputs(model.config, ids, mask, ids.shape[1])
    np.testing.assert_array_equal(given["position_ids"], expected["position_ids"])


@pytest.mark.usefixtures("blockwise", "plain_training")
def test_left_padded_batch_by_blocks(model: CausalLM, folder: Path) -> None:
    path = folder / "full_leftpad.npz"
    expected = np.load(path)
    logits = model(*tensors(path, "input_ids", "position_ids", "attention_mask")).logits.numpy()
    read = expected["attention_mask"] > 0  # what padding gives is nobody's, and differs
    assert np.abs(logits - expected["logits"])[read].max() < LOGITS


@pytest.mark.parametrize("name", ["decode_single", "decode_leftpad"])
def test_every_decode_step(model: CausalLM, folder: Path, name: str) -> None:
    expected = np.load(folder / f"{name}.npz")
    steps = sum(key.endswith("_next") for key in expected.files)
    batch = expected["step0_input_ids"].shape[0]
    cache = model.new_cache(batch)
    assert steps == 6
    for step in range(steps):
        ids = expected[f"step{step}_input_ids"]
        mask_name = f"step{step}_attention_mask"
        mask = (
            expected[mask_name]
            if mask_name in expected
            else np.ones((batch, cache.length + ids.shape[1]), np.int64)
        )
        known = expected["all_ids"][:, : mask.shape[1]]
        inputs = model.family.step_inputs(model.config, known, mask, ids.shape[1])
        np.testing.assert_array_equal(inputs["position_ids"], expected[f"step{step}_position_ids"])
        with paddle.no_grad():
            logits = model.forward_with_cache(*(paddle.to_tensor(v) for v in inputs.values()), cache)
        assert difference(logits.unsqueeze(1), expected[f"step{step}_logits"]) < LOGITS
        np.testing.assert_array_equal(logits.argmax(-1).numpy(), expected[f"step{step}_next"])
    assert cache_difference(cache, expected, "final_past") < RELATIVE


def test_prefill_in_two_chunks(model: CausalLM, folder: Path) -> None:
    path = folder / "chunked.npz"
    first, second, positions = tensors(path, "first_ids", "second_ids", "second_position_ids")
    past = model(first, use_cache=True).past_key_values
    expected = np.load(path)["second_logits"]
    assert difference(model(second, positions, past_key_values=past).logits, expected) < CHUNKED
    assert difference(model(second, past_key_values=past).logits, expected) < CHUNKED


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_every_gradient(model: CausalLM, folder: Path, recompute: bool) -> None:
    path = folder / "loss.npz"
    expected = np.load(path)
    model.train()
    if recompute:
        model.enable_recompute()
    ids, labels = tensors(path, "input_ids", "labels")
    out = model(ids, labels=labels)
    out.loss.backward()
    assert difference(out.loss, expected["loss"]) < GRADIENTS
    assert difference(out.logits, expected["logits"]) < LOGITS
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(gradients) == {key[6:] for key in expected.files if key.startswith("grad::")}
    for name, gradient in gradients.items():
        assert difference(gradient, expected[f"grad::{name}"]) < GRADIENTS, name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.usefixtures("blockwise")
def test_loss_and_every_gradient_by_blocks(model: CausalLM, folder: Path, recompute: bool) -> None:
    test_loss_and_every_gradient(model, folder, recompute)


def test_pieces(folder: Path) -> None:
    expected = np.load(folder / "pieces.npz")
    length, half = expected["rope_cache"].shape[:2]
    table = rotary_table(length, 2 * half)
    np.testing.assert_allclose(
        table.reshape(length, 2, half).swapaxes(1, 2), expected["rope_cache"], atol=1e-7
    )
    tokens, batch = expected["rope_q"].shape[:2]
    positions = paddle.arange(tokens).unsqueeze(0).expand([batch, tokens])
    cos, sin = rotary_cos_sin(paddle.to_tensor(table), positions, paddle.float32)
    query = paddle.to_tensor(expected["rope_q"]).transpose([1, 2, 0, 3])
    rotated = apply_rotary_interleaved(query, cos, sin).transpose([2, 0, 1, 3])
    assert difference(rotated, expected["rope_y"]) < 1e-6
    norm = RMSNorm(expected["norm_x"].shape[-1], 1e-5, "float32")
    norm.weight.set_value(expected["norm_weight"])
    assert difference(norm(paddle.to_tensor(expected["norm_x"])), expected["norm_y"]) < 2e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("bfloat16", 0.15)])
def test_half_precision_stays_near(folder: Path, dtype: str, tolerance: float) -> None:
    """Weights are exact in float16; bfloat16 keeps 8 bits of them. Logits reach 3.6."""
    model = AutoModel.from_pretrained(folder / "hf", dtype=dtype, family=FAMILIES[folder.name])
    assert {str(p.dtype) for p in model.parameters()} == {f"paddle.{dtype}"}
    expected = np.load(folder / "full_single.npz")
    out = model(paddle.to_tensor(expected["input_ids"]), use_cache=True)
    assert out.logits.dtype == paddle.float32
    assert difference(out.logits, expected["logits"]) < tolerance


@pytest.mark.parametrize("layout", ["hf", "hf_fp16_sharded", "hf_safetensors"])
def test_every_hub_layout_gives_the_same_model(folder: Path, layout: str, tmp_path: Path) -> None:
    family = FAMILIES[folder.name]
    dtype = open_checkpoint(folder / layout, family).float_dtype
    model = AutoModel.from_pretrained(folder / layout, dtype, family=family)
    for format, size in (("safetensors", "5GB"), ("safetensors", "50KB"), ("bin", "5GB"), ("bin", "50KB")):
        target = tmp_path / f"{format}-{size}"
        model.save_pretrained(target, max_shard_size=size, format=format)
        assert open_checkpoint(target).float_dtype == dtype
        again = AutoModel.from_pretrained(target, dtype)
        assert again.config == model.config and again.dtype == model.dtype
        for (name, ours), (other, theirs) in zip(model.named_arrays(), again.named_arrays(), strict=True):
            assert name == other and ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))
