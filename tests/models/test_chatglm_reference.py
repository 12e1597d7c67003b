"""ChatGLM-6B, final and first release, against what the original computes in float32."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.layers.rotary import cos_sin_table
from paddle_glm.models.base import CausalLM
from paddle_glm.models.chatglm.modeling import RESIDUAL_SCALE, rotary_inv_freq
from paddle_glm.models.chatglm.positions import check_prompt, two_rows
from tests.paths import reference

FOLDERS = ("chatglm_6b_tiny_seed0", "chatglm_6b_early_tiny_seed0")
# Largest differences seen: logits 2.9e-6, loss 0, gradients 4.4e-7.
LOGITS, GRADIENTS = 1e-5, 2e-6
# Hidden states reach 35 and caches 6: differences relative to the largest number; 7.5e-7 seen.
RELATIVE = 2e-6


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return reference(request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    return AutoModel.from_pretrained(folder / "hf_safetensors")


def difference(ours: paddle.Tensor | np.ndarray, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max())


def logits_difference(logits: paddle.Tensor, arrays: Mapping[str, np.ndarray], name: str = "logits") -> float:
    """The first release's vocabulary is large: its files hold some columns."""
    columns = arrays["logit_cols"] if "logit_cols" in arrays else np.arange(logits.shape[-1])
    return difference(logits.numpy()[..., columns], arrays[name])


def cache_difference(present, arrays: Mapping[str, np.ndarray], prefix: str = "past") -> float:
    """Ours is [batch, heads, length, dim], theirs [length, batch, heads, dim]; relative to the largest."""
    return max(
        difference(tensor.transpose([2, 0, 1, 3]), arrays[f"{prefix}_{layer}_{kind}"])
        / float(np.abs(arrays[f"{prefix}_{layer}_{kind}"]).max())
        for layer, pair in enumerate(present)
        for kind, tensor in zip(("key", "value"), pair, strict=True)
    )


def prompt_mask(arrays: Mapping[str, np.ndarray], pad: int) -> np.ndarray:
    return (arrays["input_ids"] != pad).astype(np.int64)


@pytest.mark.parametrize("name", ["full_single", "full_leftpad", "full_mask_token"])
def test_full_forward(model: CausalLM, folder: Path, name: str) -> None:
    expected = np.load(folder / f"{name}.npz")
    ids, mask = expected["input_ids"], prompt_mask(expected, model.config.pad_token_id)
    given = model.family.step_inputs(model.config, ids, mask, ids.shape[1])
    np.testing.assert_array_equal(given["position_ids"], expected["position_ids"])
    tensors = {key: paddle.to_tensor(array) for key, array in given.items()}
    additive = model.build_attention_mask(*tensors.values())
    np.testing.assert_array_equal(additive.dense.numpy() < 0, expected["attention_mask"])
    out = model(**tensors, use_cache=True, output_hidden_states=True)
    assert logits_difference(out.logits, expected) < LOGITS
    if "past_0_key" in expected:
        assert cache_difference(out.past_key_values, expected) < RELATIVE
    if "hidden_0" in expected:
        last = model.config.num_layers
        for index, hidden in enumerate(out.hidden_states):
            ours = model.final_norm(hidden) if index == last else hidden
            theirs = expected[f"hidden_{index}"]  # (tokens, batch, hidden)
            assert difference(ours.transpose([1, 0, 2]), theirs) < RELATIVE * np.abs(theirs).max()


def test_positions_are_those_of_the_original_by_default(model: CausalLM, folder: Path) -> None:
    expected = np.load(folder / "full_single.npz")
    ids = paddle.to_tensor(expected["input_ids"])
    assert logits_difference(model(ids).logits, expected) < LOGITS
    past = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match="position_ids"):
        model(ids, past_key_values=past)


@pytest.mark.parametrize("name", ["full_1d_gmask", "full_1d_mask"])
def test_one_row_of_positions(folder: Path, name: str) -> None:
    config = AutoModel.from_pretrained(folder / "hf_safetensors").config
    config = dataclasses.replace(config, position_encoding_2d=False)
    two = AutoModel.from_pretrained(folder / "hf_safetensors")
    one = AutoModel.from_config(config)
    one.set_state_dict(two.state_dict())
    expected = np.load(folder / f"{name}.npz")
    ids = expected["input_ids"]
    given = one.family.step_inputs(config, ids, np.ones_like(ids), ids.shape[1])
    np.testing.assert_array_equal(given["position_ids"], expected["position_ids"])
    out = one(**{key: paddle.to_tensor(array) for key, array in given.items()})
    assert logits_difference(out.logits, expected) < LOGITS


def test_unrounded_frequencies_would_be_seen(model: CausalLM, folder: Path) -> None:
    """The same model with exact frequencies gives the numbers recorded for them, which are others."""
    expected = np.load(folder / "full_single_exact_inv_freq.npz")
    rounded = model.rotary_table.clone()
    size = model.config.head_dim // 2
    exact = (1.0 / 10000.0 ** (np.arange(0, size, 2) / size)).astype(np.float32)
    model.rotary_table.set_value(paddle.to_tensor(cos_sin_table(model.config.max_sequence_length, exact)))
    try:
        logits = model(paddle.to_tensor(expected["input_ids"])).logits
    finally:
        model.rotary_table.set_value(rounded)
    assert logits_difference(logits, expected) < LOGITS
    assert logits_difference(logits, np.load(folder / "full_single.npz")) > 2 * LOGITS


@pytest.mark.parametrize("name", ["decode_single", "decode_leftpad"])
def test_every_decode_step(model: CausalLM, folder: Path, name: str) -> None:
    expected = np.load(folder / f"{name}.npz")
    config = model.config
    everything = expected["all_ids"]
    real = np.ones_like(everything)
    prompt = expected["prompt_ids"]
    real[:, : prompt.shape[1]] = prompt != config.pad_token_id
    cache = model.new_cache(len(prompt))
    for step in range(6):
        ids = expected[f"step{step}_input_ids"]
        total = cache.length + ids.shape[1]
        inputs = model.family.step_inputs(config, everything[:, :total], real[:, :total], ids.shape[1])
        np.testing.assert_array_equal(inputs["input_ids"], ids)
        np.testing.assert_array_equal(inputs["position_ids"], expected[f"step{step}_position_ids"])
        with paddle.no_grad():
            logits = model.forward_with_cache(*(paddle.to_tensor(v) for v in inputs.values()), cache)
        theirs = {**expected, "last": expected[f"step{step}_logits"][:, -1]}
        assert logits_difference(logits, theirs, "last") < LOGITS
        np.testing.assert_array_equal(logits.argmax(-1).numpy(), expected[f"step{step}_next"])
    assert cache_difference(cache, expected, "final_past") < RELATIVE


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_every_gradient(folder: Path, recompute: bool) -> None:
    model = AutoModel.from_pretrained(folder / "hf_safetensors")
    expected = np.load(folder / "loss.npz")
    model.train()
    if recompute:
        model.enable_recompute()
    ids, labels = (paddle.to_tensor(expected[name]) for name in ("input_ids", "labels"))
    out = model(ids, labels=labels)
    out.loss.backward()
    assert difference(out.loss, expected["loss"]) < GRADIENTS
    assert logits_difference(out.logits, expected) < LOGITS
    recorded = {key[6:]: expected[key] for key in expected.files if key.startswith("grad::")}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert "lm_head.weight" not in gradients
    if recorded:  # those of the first release, 150528 rows of words, were left out
        assert set(gradients) == set(recorded)
    for name, gradient in recorded.items():
        assert difference(gradients[name], gradient) < GRADIENTS, name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.usefixtures("blockwise")
def test_loss_and_every_gradient_by_blocks(folder: Path, recompute: bool) -> None:
    test_loss_and_every_gradient(folder, recompute)


def test_padding_on_the_right_does_not_change_the_loss(folder: Path) -> None:
    """A training batch tells what is padding; the original, which does not, has the same loss."""
    model = AutoModel.from_pretrained(folder / "hf_safetensors")
    expected = np.load(folder / "loss.npz")
    mask = prompt_mask(expected, model.config.pad_token_id)
    ids, labels, mask = (
        paddle.to_tensor(array) for array in (expected["input_ids"], expected["labels"], mask)
    )
    assert difference(model(ids, attention_mask=mask, labels=labels).loss, expected["loss"]) < LOGITS


def test_pieces(folder: Path) -> None:
    expected = np.load(folder / "pieces.npz")
    length, _, size = expected["cos"].shape
    np.testing.assert_array_equal(rotary_inv_freq(size), expected["inv_freq"])
    cos, sin = np.split(cos_sin_table(length, rotary_inv_freq(size)), 2, axis=1)
    for name, ours in (("cos", cos), ("sin", sin)):
        assert difference(np.concatenate([ours, ours], axis=1)[:, None], expected[name]) < 1e-6
    gelu = paddle.nn.functional.gelu(paddle.to_tensor(expected["gelu_x"]), approximate=True)
    assert difference(gelu, expected["gelu_y"]) < 1e-6
    assert abs(RESIDUAL_SCALE - float(expected["alpha"])) < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.03), ("bfloat16", 0.3)])
def test_half_precision_stays_near(dtype: str, tolerance: float) -> None:
    folder = reference(FOLDERS[0])
    model = AutoModel.from_pretrained(folder / "hf", dtype=dtype)
    assert {str(p.dtype) for p in model.parameters()} == {f"paddle.{dtype}"}
    expected = np.load(folder / "full_single.npz")
    assert logits_difference(model(paddle.to_tensor(expected["input_ids"])).logits, expected) < tolerance


@pytest.mark.parametrize("layout", ["hf", "hf_fp16_sharded", "hf_safetensors"])
def test_every_hub_layout_gives_the_same_model(layout: str, tmp_path: Path) -> None:
    """Files with and without the tied head; what is saved has the embedding alone."""
    model = AutoModel.from_pretrained(reference(FOLDERS[0]) / layout, dtype="float32")
    model.save_pretrained(tmp_path / "out")
    again = AutoModel.from_pretrained(tmp_path / "out", dtype="float32")
    assert again.config == dataclasses.replace(model.config, dtype="float32")
    for (name, ours), (other, theirs) in zip(model.named_arrays(), again.named_arrays(), strict=True):
        assert name == other
        np.testing.assert_array_equal(ours, theirs)


def test_which_blank_counts() -> None:
    """The final release prefers [gMASK] (1), the first ones [MASK] (0), where a prompt has both."""
    ids = np.array([[9, 0, 9, 1, 4, 9]])
    real = np.ones_like(ids, dtype=bool)
    final, _ = two_rows(ids, real, 4, (1, 0))
    first, _ = two_rows(ids, real, 4, (0, 1))
    assert final[0].tolist() == [[0, 1, 2, 3, 3, 3], [0, 0, 0, 0, 1, 2]]
    assert first[0].tolist() == [[0, 1, 2, 3, 1, 1], [0, 0, 0, 0, 1, 2]]


def test_a_prompt_without_its_end_is_refused(model: CausalLM) -> None:
    config = model.config
    gmask, sop = config.bos_token_id - 3, config.bos_token_id
    for ids in ([[gmask, sop], [9, 9]], [[gmask, sop], [9, sop]], [[gmask, sop], [sop, gmask]]):
        with pytest.raises(InputError, match=rf"row 1 .*{gmask}|row 1 .*{sop}"):
            check_prompt(config, np.array(ids), np.ones((2, 2), np.int64))
