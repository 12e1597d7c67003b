"""Calibrated weights of whole models: names, shapes, and outputs nearer to the float model's."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.quantization import QuantizationConfig, dequantize, quantize, weight_name
from paddle_glm.quantization.calibration import calibrate, gptq_quantize_folder
from tests.models.test_quantized import batch, config_of

QUANTIZATION = QuantizationConfig(4, 32)


@pytest.fixture(scope="module", params=["chatglm2", "chatglm"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("float") / request.param
    AutoModel.from_config(config_of(request.param), seed=3).save_pretrained(path)
    return path


def rows(config: ModelConfig) -> dict[str, np.ndarray]:
    """A batch with padding behind two of its rows."""
    ids = batch(config).numpy()
    mask = np.ones_like(ids)
    mask[0, 9:] = mask[1, 10:] = 0
    model = AutoModel.from_config(config)
    positions = model.family.positions(config, ids, mask)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask}


def hidden(folder: Path, inputs: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    """The last hidden states of real tokens, with some weights replaced."""
    model = AutoModel.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.set_value(paddle.to_tensor(weights[name]))
    tensors = {name: paddle.to_tensor(array) for name, array in inputs.items()}
    states = model(**tensors, output_hidden_states=True).hidden_states[-1].numpy()
    return states[inputs["attention_mask"] == 1]


def test_a_calibrated_model_is_nearer_to_the_float_one(folder):
    checkpoint = open_checkpoint(folder)
    inputs = rows(checkpoint.config)
    done = []
    found = calibrate(checkpoint, QUANTIZATION, [inputs], progress=lambda *counts: done.append(counts))
    assert done == [(1, 2), (2, 2)]
    linear = {name for name, spec in checkpoint.parameter_specs.items() if QUANTIZATION.applies_to(spec)}
    assert found.keys() == linear
    calibrated = {name: dequantize(*weight, 4) for name, weight in found.items()}
    plain = {name: dequantize(*quantize(checkpoint.read(name), 4, 32), 4) for name in linear}
    expected = hidden(folder, inputs, {})
    errors = [np.square(hidden(folder, inputs, weights) - expected).sum() for weights in (plain, calibrated)]
    assert errors[1] < 0.5 * errors[0]


def test_padding_counts_for_nothing(folder):
    checkpoint = open_checkpoint(folder)
    inputs = rows(checkpoint.config)
    found = calibrate(checkpoint, QUANTIZATION, [inputs])
    other = dict(inputs, input_ids=np.where(inputs["attention_mask"] == 1, inputs["input_ids"], 7))
    again = calibrate(checkpoint, QUANTIZATION, [other])
    for name, weight in found.items():
        assert all((a == b).all() for a, b in zip(weight, again[name], strict=True)), name


@pytest.mark.parametrize("degree", [1, 2])
def test_folders_hold_what_was_calibrated(folder, tmp_path, degree):
    checkpoint = open_checkpoint(folder)
    inputs = rows(checkpoint.config)
    found = calibrate(checkpoint, QUANTIZATION, [inputs])
    gptq_quantize_folder(folder, tmp_path / "int4", [inputs], 4, 32, embeddings=True, degree=degree)
    written = open_checkpoint(tmp_path / "int4")
    written.validate()
    assert written.tensor_parallel_degree == degree
    for name in written.parameter_specs:
        if (weight := weight_name(name)) in found:
            expected = found[weight].values if name == weight else found[weight].scale
            assert (written.read(name) == expected).all(), name
        elif (
            name == weight and written.parameter_specs[name].dtype == "int8"
        ):  # embedding and head are rounded
            assert (written.read(name) == quantize(checkpoint.read(name), 4, 32).values).all(), name


def test_a_quantised_model_is_refused(folder, tmp_path):
    AutoModel.from_pretrained(folder).quantize(8).save_pretrained(tmp_path / "int8")
    with pytest.raises(InputError, match="already quantised to 8 bits"):
        gptq_quantize_folder(tmp_path / "int8", tmp_path / "int4", [], 4)


def test_a_target_in_use_is_refused_before_the_work(folder, tmp_path):
    (tmp_path / "mine.txt").touch()

    def progress(done: int, total: int) -> None:
        raise AssertionError("it calibrates")

    batches = [rows(open_checkpoint(folder).config)]
    with pytest.raises(InputError, match="not empty"):
        gptq_quantize_folder(folder, tmp_path, batches, 4, progress=progress)
