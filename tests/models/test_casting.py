"""`half`, `bfloat16` and `float` in memory give what loading in that dtype gives."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.numpy_interop import paddle_dtype_name, to_numpy
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from tests.models.test_quantized import batch, config_of


@pytest.fixture(scope="module", params=["chatglm", "chatglm2", "chatglm3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / request.param
    AutoModel.from_config(config_of(request.param), seed=3).save_pretrained(path)
    return path


def assert_same(ours: CausalLM, theirs: CausalLM) -> None:
    held, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert held.keys() == expected.keys()
    for name, tensor in expected.items():
        assert held[name].dtype == tensor.dtype, name
        assert (to_numpy(held[name]) == to_numpy(tensor)).all(), name
    ids = batch(ours.config)
    assert (ours(ids).logits == theirs(ids).logits).all()


@pytest.mark.parametrize(("method", "dtype"), [("half", "float16"), ("bfloat16", "bfloat16")])
def test_casting_is_loading_in_that_dtype(folder: Path, method: str, dtype: str, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder, dtype="float32")
    assert getattr(model, method)() is model and model.dtype == dtype
    assert_same(model, AutoModel.from_pretrained(folder, dtype=dtype))
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["torch_dtype"] == dtype
    stored = open_checkpoint(tmp_path / "saved")
    assert {stored.safetensors_dtype(name) for name in stored.names()} == {
        {"float16": "F16"}.get(dtype, "BF16")
    }
    # Back again: rounded weights, exact positions.
    assert_same(model.float(), AutoModel.from_pretrained(tmp_path / "saved", dtype="float32"))


@pytest.mark.parametrize("order", ["half quantize", "quantize half"])
def test_quantised_models_are_cast_too(folder: Path, order: str) -> None:
    model = AutoModel.from_pretrained(folder, dtype="float32")
    if order == "half quantize":
        model = model.half().quantize(4).eval()
        theirs = AutoModel.from_pretrained(folder, dtype="float16").quantize(4)
    else:
        model = model.quantize(8).half().eval()
        theirs = AutoModel.from_pretrained(folder, dtype="float16", quantization_bit=8)
    assert_same(model, theirs)


def test_what_is_trained_beside_a_model_stays_float32(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder, dtype="float32")
    attach_prefix(model, 3, projection=True)
    attach_lora(model, LoraConfig())
    before = {name: tensor.numpy() for name, tensor in model.named_parameters()}
    model.half()
    for name, tensor in model.named_parameters():
        beside = "prefix_encoder" in name or "lora_" in name
        assert paddle_dtype_name(tensor) == ("float32" if beside else "float16"), name
        assert not beside or (tensor.numpy() == before[name]).all()
    assert model.transformer.prefix_encoder.float() is model.transformer.prefix_encoder
    assert np.isfinite(model(batch(model.config)).logits.numpy()).all()


def test_frozen_weights_stay_frozen(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder, dtype="float32")
    attach_lora(model, LoraConfig()).freeze_base_model()
    model.half()
    assert {name for name, p in model.named_parameters() if not p.stop_gradient} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }


def test_quantising_to_what_it_is_changes_nothing(folder: Path) -> None:
    """As the originals: `from_pretrained("chatglm2-6b-int4").quantize(4)`."""
    model = AutoModel.from_pretrained(folder, quantization_bit=4)
    ids = batch(model.config)
    before = model(ids).logits
    assert model.quantize(4) is model
    assert (model(ids).logits == before).all()
    with pytest.raises(InputError, match="already quantised to 4 bits"):
        model.quantize(8)


def test_an_unknown_dtype_names_the_known(folder: Path) -> None:
    with pytest.raises(InputError, match="'float8' is not one of float32, float16, bfloat16"):
        AutoModel.from_pretrained(folder).cast("float8")
    assert paddle.get_default_dtype() == "float32"
