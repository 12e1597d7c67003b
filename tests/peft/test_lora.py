"""LoRA in one process: PEFT's files in and out, folding, and what is refused."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint.lazy_tensor import as_lazy
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.checkpoint.torch_file import write_torch
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.peft.lora import adapter_names, attach_lora, load_lora, merge_and_unload, use_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.merge import merge_lora
from tests.quantized import dequantized

IDS = paddle.to_tensor([[5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24, 25]])
LAYER = "transformer.encoder.layers.0.self_attention.query_key_value"
OTHER = "transformer.encoder.layers.1.mlp.dense_4h_to_h"


@pytest.fixture
def model(tiny_checkpoint: Path) -> CausalLM:
    return AutoModel.from_pretrained(tiny_checkpoint)


def peft_folder(folder: Path, pairs: dict[str, tuple[np.ndarray, np.ndarray]], **settings: object) -> Path:
    """What `PeftModel.save_pretrained(safe_serialization=False)` leaves."""
    folder.mkdir(exist_ok=True)
    tensors = {}
    for module, pair in pairs.items():
        for part, array in zip("AB", pair, strict=True):
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = as_lazy(array)
    write_torch(folder / "adapter_model.bin", tensors)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none"}
    values |= {"target_modules": ["query_key_value"], "modules_to_save": None, "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps({**values, **settings}))
    return folder


def random_pair(
    model: CausalLM, rank: int = 4, layer: str = LAYER, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = dict(model.named_parameters())[f"{layer}.weight"].shape
    random = np.random.default_rng(seed)
    shapes = ((rank, columns), (rows, rank))
    a, b = (random.normal(0, 0.1, shape).astype(np.float32) for shape in shapes)
    return a, b


@pytest.mark.parametrize(("settings", "scale"), [({}, 2.0), ({"use_rslora": True}, 4.0)])
def test_an_adapter_of_peft_adds_its_product(model, tiny_checkpoint, tmp_path, settings, scale):
    a, b = random_pair(model)
    folder = peft_folder(tmp_path / "peft", {LAYER: (a, b)}, **settings)
    load_lora(model, folder)
    expected = AutoModel.from_pretrained(tiny_checkpoint)
    weight = dict(expected.named_parameters())[f"{LAYER}.weight"]
    weight.set_value(weight.numpy() + scale * (b @ a))
    assert float((model(IDS).logits - expected(IDS).logits).abs().max()) < 2e-6
    merge_lora(tiny_checkpoint, folder, tmp_path / "merged", max_shard_size="50KB")
    merged = dict(AutoModel.from_pretrained(tmp_path / "merged").named_parameters())
    np.testing.assert_allclose(merged[f"{LAYER}.weight"].numpy(), weight.numpy(), atol=1e-7)


def test_ours_goes_out_in_pefts_names_and_comes_back(model, tiny_checkpoint, tmp_path):
    untouched = model(IDS).logits
    adapter = attach_lora(model, LoraConfig(rank=4, alpha=8.0, target_modules=("query_key_value", "dense")))
    assert (model(IDS).logits == untouched).all(), "B begins as zeros"
    for name, parameter in adapter.parameters():
        if "lora_B" in name:
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    adapter.save(tmp_path)
    tensors = open_safetensors(tmp_path / "adapter_model.safetensors")
    assert f"base_model.model.{LAYER}.lora_A.weight" in tensors and len(tensors) == 8
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (values["peft_type"], values["r"], values["lora_alpha"]) == ("LORA", 4, 8)
    again = AutoModel.from_pretrained(tiny_checkpoint, lora_path=tmp_path)
    assert (again(IDS).logits == model(IDS).logits).all()
    assert float((again(IDS).logits - untouched).abs().max()) > 1e-3


def test_ranks_and_alphas_by_module(model, tiny_checkpoint, tmp_path):
    """PEFT's rank_pattern and alpha_pattern hold for the modules that they name, in and out."""
    pairs = {LAYER: random_pair(model, 2), OTHER: random_pair(model, 4, OTHER)}
    patterns = {"rank_pattern": {r"layers\.0\..*": 2}, "alpha_pattern": {"dense_4h_to_h": 1, "value": 99}}
    folder = peft_folder(tmp_path / "peft", pairs, **patterns)
    adapter = load_lora(model, folder)
    expected = AutoModel.from_pretrained(tiny_checkpoint)
    weights = dict(expected.named_parameters())
    for module, scale in ((LAYER, 8 / 2), (OTHER, 1 / 4)):
        a, b = pairs[module]
        weight = weights[f"{module}.weight"]
        weight.set_value(weight.numpy() + np.float32(scale) * (b @ a))
    assert float((model(IDS).logits - expected(IDS).logits).abs().max()) < 2e-6
    merge_lora(tiny_checkpoint, folder, tmp_path / "merged")
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    assert float((merged(IDS).logits - expected(IDS).logits).abs().max()) < 2e-6
    (tmp_path / "ours").mkdir()
    adapter.save(tmp_path / "ours")
    values = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert {key: values[key] for key in patterns} == patterns
    again = AutoModel.from_pretrained(tiny_checkpoint, lora_path=tmp_path / "ours")
    assert (again(IDS).logits == model(IDS).logits).all()


def test_several_adapters_and_one_of_them_in_use(model, tiny_checkpoint, tmp_path):
    folders = {
        name: peft_folder(tmp_path / name, {module: random_pair(model, layer=module, seed=seed)})
        for seed, (name, module) in enumerate({"ads": LAYER, "math": LAYER, "poems": OTHER}.items())
    }
    alone = {None: model(IDS).logits}
    for name, folder in folders.items():
        alone[name] = AutoModel.from_pretrained(tiny_checkpoint, lora_path=folder)(IDS).logits
    adapters = {name: load_lora(model, folder, name) for name, folder in folders.items()}
    assert adapter_names(model) == list(folders)
    assert (model(IDS).logits == alone["poems"]).all(), "the one loaded last is in use"
    for name in ("ads", None, "poems", "math", "math"):
        use_lora(model, name)
        assert (model(IDS).logits == alone[name]).all()
    with pytest.raises(InputError, match="no adapter 'maths'; it has 'ads', 'math', 'poems'"):
        use_lora(model, "maths")
    (tmp_path / "out").mkdir()
    adapters["ads"].save(tmp_path / "out")  # its own numbers, whichever is in use
    again = AutoModel.from_pretrained(tiny_checkpoint, lora_path=tmp_path / "out")
    assert (again(IDS).logits == alone["ads"]).all()
    adapters["math"].freeze_base_model()
    trained = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    assert trained == {f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"}
    merge_and_unload(model)
    assert adapter_names(model) == [] and float((model(IDS).logits - alone["math"]).abs().max()) < 2e-6


@pytest.mark.parametrize("bits", [8, 4])
def test_adapters_on_a_quantised_base(tiny_checkpoint, tmp_path, bits):
    """They add to what its integers stand for, take turns, and are not folded into integers."""
    base = AutoModel.from_pretrained(tiny_checkpoint, quantization_bit=bits)
    base.save_pretrained(tmp_path / "base")
    exact = dequantized(base)
    for model in (base, exact):
        for seed, (name, module) in enumerate({"ads": LAYER, "poems": OTHER}.items()):
            pair = random_pair(exact, layer=module, seed=seed)
            load_lora(model, peft_folder(tmp_path / name, {module: pair}), name)
    for name in ("ads", None, "poems"):
        for model in (base, exact):
            use_lora(model, name)
        assert float((base(IDS).logits - exact(IDS).logits).abs().max()) < 2e-6
    with pytest.raises(InputError, match="cannot be merged into quantised weights"):
        merge_and_unload(base)
    with pytest.raises(InputError, match=f"is quantised to {bits} bits"):
        merge_lora(tmp_path / "base", tmp_path / "ads", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_refused_adapter_leaves_the_model_as_it_was(model, tmp_path):
    before = model(IDS).logits
    a, b = random_pair(model)
    for pairs in ({LAYER: (np.tile(a, 2), b)}, {LAYER: (a, b), "transformer.output_layer": (a, b)}):
        with pytest.raises(InputError):
            load_lora(model, peft_folder(tmp_path / "peft", pairs))
        assert adapter_names(model) == [] and (model(IDS).logits == before).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folding_leaves_a_plain_model(tiny_checkpoint, tmp_path, dtype):
    model = AutoModel.from_pretrained(tiny_checkpoint, dtype)
    names = [name for name, _ in model.named_parameters()]
    load_lora(model, peft_folder(tmp_path / "peft", {LAYER: random_pair(model)}))
    beside = model(IDS).logits
    with pytest.raises(InputError, match="merge_and_unload"):
        model.save_pretrained(tmp_path / "out")
    with pytest.raises(InputError, match="an adapter 'default' already"):
        load_lora(model, tmp_path / "peft")
    merge_and_unload(model)
    assert [name for name, _ in model.named_parameters()] == names
    # A folded bfloat16 weight is rounded to 8 bits.
    assert float((model(IDS).logits - beside).abs().max()) < (2e-6 if dtype == "float32" else 0.05)
    model.save_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "only .LORA. is"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"use_dora": True}, "use_dora"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"modules_to_save": ["output_layer"]}, "modules_to_save"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"trainable_token_indices": {"embedding": [3]}}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
        ({"rank_pattern": {"query_key_value": 2}}, "r is 2"),
        (
            {"rank_pattern": {"query_key_value": "many"}},
            "rank_pattern = .*: expected an object that maps",
        ),
        ({"alpha_pattern": {"dense": 0}}, "alpha_pattern = .* to a number above 0"),
        ({"r": 5}, "r is 5"),
        ({"r": None}, "lacks r: not the settings"),
    ],
)
def test_what_would_compute_something_else_is_refused(model, tmp_path, settings, message):
    folder = peft_folder(tmp_path / "peft", {LAYER: random_pair(model)}, **settings)
    with pytest.raises(InputError, match=message):
        load_lora(model, folder)


def test_adapters_of_another_model_are_refused(model, tiny_checkpoint, tmp_path):
    a, b = random_pair(model)
    other = peft_folder(tmp_path / "peft", {"transformer.layers.0.attention.dense": (a, b)})
    wide = peft_folder(tmp_path / "wide", {LAYER: (np.tile(a, 2), b)})
    words = peft_folder(tmp_path / "words", {"transformer.output_layer": (a, np.tile(b, (9, 1))[:520])})
    for folder, message in ((other, "no linear layer"), (wide, "needs"), (words, "cannot have an adapter")):
        with pytest.raises(InputError, match=message):
            load_lora(model, folder)
    for folder in (other, wide):
        with pytest.raises(InputError):
            merge_lora(tiny_checkpoint, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
