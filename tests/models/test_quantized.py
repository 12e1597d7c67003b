"""Quantised models compute what float models of the same dequantised weights do, however they came to be."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint, save_checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.models.family import family_of
from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.layers import ParallelWeight
from paddle_glm.quantization import dequantize
from tests.quantized import dequantized

SIZES = {
    "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "ffn_hidden_size": 96, "vocab_size": 160, "max_sequence_length": 64,
}  # fmt: skip
FAMILY_SIZES = {
    "chatglm": {
        "num_key_value_heads": 4, "position_encoding_2d": True, "bos_token_id": 154,
        "mask_token_id": 150, "gmask_token_id": 151,
    },
}  # fmt: skip
WAYS = {"int8": (8, None, False), "int4": (4, None, False), "int4-16": (4, 16, False), "all": (4, 32, True)}


def config_of(family: str) -> ModelConfig:
    return ModelConfig(family=family, **{**SIZES, **FAMILY_SIZES.get(family, {})})


def batch(config: ModelConfig) -> paddle.Tensor:
    ids = np.random.default_rng(0).integers(3, 140, (3, 12))
    if config.bos_token_id is not None:
        ids[:, 6:8] = config.gmask_token_id, config.bos_token_id
    return paddle.to_tensor(ids)


@pytest.fixture(scope="module", params=["chatglm2", "chatglm"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("float") / request.param
    AutoModel.from_config(config_of(request.param), seed=3).save_pretrained(path)
    return path


@pytest.fixture(params=WAYS)
def way(request) -> tuple[int, int | None, bool]:
    return WAYS[request.param]


def test_logits_and_decoding_are_those_of_the_dequantised_weights(folder, way):
    model = AutoModel.from_pretrained(folder).quantize(*way)
    floats, ids = dequantized(model), batch(model.config)
    assert float((model(ids).logits - floats(ids).logits).abs().max()) < 1e-5
    steps = []
    for one in (model, floats):
        backend = DygraphBackend(one)
        steps.append([backend.prefill(ids.numpy(), np.ones_like(ids)), backend.decode(np.array([5, 6, 7]))])
    assert max(np.abs(a - b).max() for a, b in zip(*steps, strict=True)) < 1e-5


def test_what_is_quantised_is_integers_and_nothing_else_changed(folder, way):
    bits, _, embeddings = way
    model, floats = AutoModel.from_pretrained(folder).quantize(*way), AutoModel.from_pretrained(folder)
    before = dict(floats.named_parameters())
    names = {name for name, value in model.named_parameters() if value.dtype == paddle.int8}
    linear = {
        name for name in before if name.rpartition(".")[0].endswith(("query_key_value", "dense", "_h", "_4h"))
    }
    vocabulary = {name for name in before if "word_embeddings" in name or "output_layer" in name}
    assert names == {name for name in linear if name.endswith(".weight")} | (
        vocabulary if embeddings else set()
    )
    for name, value in model.named_parameters():
        if name in names:
            scale = dict(model.named_parameters())[f"{name}_scale"].numpy()
            restored = dequantize(value.numpy(), scale, bits)
            step = np.abs(before[name].numpy()).max() / (2 ** (bits - 1) - 1)
            assert np.abs(restored - before[name].numpy()).max() <= step / 2 + 1e-6
            assert value.stop_gradient
        elif not name.endswith("weight_scale"):
            assert (value.numpy() == before[name].numpy()).all()
    assert (model.config.quantization_bit, model.config.quantization_embeddings) == (bits, embeddings)


def test_every_way_gives_the_same_integers(folder, way, tmp_path):
    """In memory, while a float folder is read, from a folder that was saved quantised, and from a seed."""
    bits, group_size, embeddings = way
    model = AutoModel.from_pretrained(folder).quantize(*way)
    expected = {name: value.numpy() for name, value in model.named_parameters()}
    options = {"quantization_bit": bits, "quantization_embeddings": embeddings}
    read = AutoModel.from_pretrained(folder, quantization_group_size=group_size, **options)
    model.save_pretrained(tmp_path / "saved")
    saved = AutoModel.from_pretrained(tmp_path / "saved")
    made = AutoModel.from_config(model.config, seed=3)
    for other in (read, saved, made):
        found = {name: value.numpy() for name, value in other.named_parameters()}
        assert list(found) == list(dict(made.named_parameters()))
        assert found.keys() == expected.keys()
        assert all((found[name] == values).all() for name, values in expected.items())
        assert other.config == model.config
    assert open_checkpoint(tmp_path / "saved").safetensors_dtype(next(iter(expected))) in ("F32", "I8")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_models_keep_their_integers_and_scales(folder, dtype):
    model = AutoModel.from_pretrained(folder, dtype=dtype, quantization_bit=4)
    kinds = {str(value.dtype) for name, value in model.named_parameters() if name.endswith("weight_scale")}
    assert kinds == {"paddle.float32"} and model.dtype == dtype
    full = AutoModel.from_pretrained(folder, quantization_bit=4)
    ids = batch(model.config)
    assert float((model(ids).logits - full(ids).logits).abs().max()) < 0.02
    assert model(ids).logits.dtype == paddle.float32


def test_groups_where_nobody_says(folder):
    """96 inputs of the second projection are three groups of 32; `0` is one scale per output."""
    assert AutoModel.from_pretrained(folder, quantization_bit=4).config.quantization_group_size == 32
    assert AutoModel.from_pretrained(folder, quantization_bit=8).config.quantization_group_size is None
    model = AutoModel.from_pretrained(folder, quantization_bit=4, quantization_group_size=0)
    assert model.config.quantization_group_size is None
    values = model.config.to_hub_dict()
    assert values["quantization_bit"] == 4 and "quantization_group_size" not in values


def test_a_quantised_folder_asked_for_as_it_is(folder, tmp_path):
    AutoModel.from_pretrained(folder).quantize(4, 16).save_pretrained(tmp_path / "saved")
    model = AutoModel.from_pretrained(tmp_path / "saved", dtype="auto", quantization_bit=4)
    assert (model.config.quantization_bit, model.config.quantization_group_size) == (4, 16)
    for options in (
        {"quantization_bit": 8},
        {"quantization_bit": 4, "quantization_group_size": 32},
        {"quantization_bit": 4, "quantization_group_size": 0},
        {"quantization_bit": 4, "quantization_embeddings": True},
    ):
        with pytest.raises(InputError, match=r"already quantised to 4 bits \(group_size 16\)"):
            AutoModel.from_pretrained(tmp_path / "saved", **options)
    assert model.quantize(4, 16) is model
    with pytest.raises(InputError, match="already quantised to 4 bits"):
        model.quantize(4, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 48), r"mlp.dense_4h_to_h.weight|group_size 48 does not divide 64"),
        ((3,), "3 bits: expected 4 or 8"),
        ((4, 3), "group_size 3"),
    ],
)
def test_what_cannot_be_quantised_so(folder, arguments, message):
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(InputError, match=message):
        model.quantize(*arguments)
    with pytest.raises(InputError, match=message):
        AutoModel.from_pretrained(
            folder, quantization_bit=arguments[0], quantization_group_size=(*arguments, None)[1]
        )
    assert model.config.quantization_bit == 0


def test_group_size_without_bits(folder):
    with pytest.raises(InputError, match="need quantization_bit"):
        AutoModel.from_pretrained(folder, quantization_group_size=16)


def test_weights_that_are_not_finite_are_named(folder, tmp_path):
    model = AutoModel.from_pretrained(folder)
    name, weight = next(item for item in model.named_parameters() if item[0].endswith("4h_to_h.weight"))
    values = weight.numpy()
    values[3, 5] = np.nan
    weight.set_value(values)
    model.save_pretrained(tmp_path / "bad")
    with pytest.raises(InputError, match=name):
        model.quantize(4)
    assert not any(layer.bits for layer in model.sublayers() if isinstance(layer, ParallelWeight))
    with pytest.raises(InputError, match=f"{name} cannot be quantised: .*NaN"):
        AutoModel.from_pretrained(tmp_path / "bad", quantization_bit=4)


def test_integers_that_config_json_does_not_speak_of(folder, tmp_path):
    model = AutoModel.from_pretrained(folder).quantize(8)
    model.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "quantization_bit": 0}))
    path.with_name("manifest.json").unlink()
    with pytest.raises(InputError, match=r"weight int8, while config.json says quantization_bit = 0"):
        AutoModel.from_pretrained(tmp_path / "saved")
    config = ModelConfig.from_dict(values)
    arrays = {
        name: np.zeros(spec.shape, np.float16) for name, spec in family_of(config).parameters(config).items()
    }
    (tmp_path / "zeros").mkdir()
    save_checkpoint(tmp_path / "zeros", arrays.items())
    config.save_pretrained(tmp_path / "zeros")
    with pytest.raises(InputError, match=r"weight float16, while config.json says quantization_bit = 8"):
        AutoModel.from_pretrained(tmp_path / "zeros")


def test_a_slice_is_not_quantised(folder):
    model = AutoModel.from_pretrained(folder, group=ProcessGroup(0, 2))
    with pytest.raises(InputError, match="give from_pretrained quantization_bit instead"):
        model.quantize(4)


def test_a_prefix_in_the_folder_stays_float(folder, tmp_path):
    config = replace(AutoModel.from_pretrained(folder).config, pre_seq_len=3, prefix_projection=True)
    AutoModel.from_config(config, seed=3).save_pretrained(tmp_path / "float")
    model = AutoModel.from_pretrained(tmp_path / "float", dtype="float16", quantization_bit=4)
    kinds = {str(value.dtype) for name, value in model.named_parameters() if "prefix_encoder" in name}
    assert kinds == {"paddle.float32"}
    whole = AutoModel.from_pretrained(tmp_path / "float").quantize(4)
    model = AutoModel.from_pretrained(tmp_path / "float", quantization_bit=4)
    ids = batch(config)
    assert (model(ids).logits == whole(ids).logits).all()
