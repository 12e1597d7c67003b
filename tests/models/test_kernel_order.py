"""Weights in the kernels' order: nobody who reads a model's parameters sees it."""

import copy
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.kernels.library import kernel_library
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel.kernel_weights import PackedWeight
from paddle_glm.parallel.layers import ParallelWeight
from tests.quantized import dequantized

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels")
IDS = np.arange(24).reshape(2, 12) + 10
WAYS = {"int8": (8, None, False), "int4": (4, None, False), "int4-16-all": (4, 16, True)}


@pytest.fixture(scope="module", params=WAYS)
def folder(request, tiny_checkpoint, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("packed") / request.param
    AutoModel.from_pretrained(tiny_checkpoint).quantize(*WAYS[request.param]).save_pretrained(path)
    return path


@pytest.fixture
def model(folder) -> CausalLM:
    return AutoModel.from_pretrained(folder)


def quantized_layers(model: CausalLM) -> list[ParallelWeight]:
    return [layer for layer in model.sublayers() if isinstance(layer, ParallelWeight) and layer.bits]


def is_packed(model: CausalLM) -> bool:
    packed = {layer._parameters.packed is not None for layer in quantized_layers(model)}
    assert len(packed) == 1
    return packed.pop()


def assert_holds(arrays: dict[str, np.ndarray], folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert arrays.keys() == checkpoint.parameter_specs.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, checkpoint.read(name), err_msg=name)


def test_weights_are_packed_while_loading_and_stay_so(model, monkeypatch):
    assert is_packed(model)
    monkeypatch.setattr(PackedWeight, "pack", None)
    monkeypatch.setattr(PackedWeight, "unpack", None)
    backend = DygraphBackend(model)
    backend.prefill(IDS, np.ones_like(IDS))
    backend.decode(np.array([5, 6]))
    assert model.device == "cpu"
    model.train()
    model(paddle.to_tensor(IDS), labels=paddle.to_tensor(IDS)).loss.backward()
    assert is_packed(model)


READERS = {
    "named_parameters": lambda model: {name: one.numpy() for name, one in model.named_parameters()},
    "named_arrays": lambda model: dict(model.named_arrays()),
    "state_dict": lambda model: {name: one.numpy() for name, one in model.state_dict().items()},
    "deepcopy": lambda model: dict(copy.deepcopy(model).named_arrays()),
    "cast": lambda model: dict(model.cast("float32").named_arrays()),
    "to": lambda model: dict(model.to("cpu").named_arrays()),
    "sublayers": lambda model: {
        f"{path}.{name}": one.numpy()
        for path, layer in model.named_sublayers()
        for name, one in layer.named_parameters(include_sublayers=False)
    },
    "attributes": lambda model: {
        f"{path}.{name}": getattr(layer, name).numpy()
        for path, layer in model.named_sublayers()
        for name in layer._parameters
        if getattr(layer, name) is not None
    },
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gets_the_hubs_order(model, folder, reader):
    logits = model(paddle.to_tensor(IDS)).logits.numpy()
    assert is_packed(model)
    assert_holds(READERS[reader](model), folder)
    np.testing.assert_array_equal(model(paddle.to_tensor(IDS)).logits.numpy(), logits)
    assert is_packed(model)


def test_a_copy_is_of_its_own(model):
    model(paddle.to_tensor(IDS))
    twin = copy.deepcopy(model)
    logits = model(paddle.to_tensor(IDS)).logits.numpy()
    for layer in quantized_layers(twin):
        layer.weight_scale.set_value(paddle.zeros_like(layer.weight_scale))
    assert np.abs(twin(paddle.to_tensor(IDS)).logits.numpy() - logits).max() > 1e-3
    np.testing.assert_array_equal(model(paddle.to_tensor(IDS)).logits.numpy(), logits)


def test_set_state_dict_and_setting_one_weight(model, folder):
    other = AutoModel.from_config(model.config, seed=9)
    expected = model(paddle.to_tensor(IDS)).logits.numpy()
    other(paddle.to_tensor(IDS))
    other.set_state_dict(model.state_dict())
    np.testing.assert_array_equal(other(paddle.to_tensor(IDS)).logits.numpy(), expected)
    layer = quantized_layers(other)[0]
    layer.weight.set_value(paddle.zeros_like(layer.weight))
    assert np.abs(other(paddle.to_tensor(IDS)).logits.numpy() - expected).max() > 1e-4
    other.load_weights(open_checkpoint(folder))
    np.testing.assert_array_equal(other(paddle.to_tensor(IDS)).logits.numpy(), expected)


def test_saving_gives_the_folder_back(model, folder, tmp_path):
    model(paddle.to_tensor(IDS))
    model.save_pretrained(tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    assert_holds({name: saved.read(name) for name in saved.names()}, folder)


def test_without_kernels_results_are_the_same(model, folder, monkeypatch):
    exact = dequantized(model)(paddle.to_tensor(IDS)).logits.numpy()
    monkeypatch.setattr("paddle_glm.parallel.layers.can_be_packed", lambda *_: False)
    plain = AutoModel.from_pretrained(folder)
    assert not is_packed(plain)
    for one in (model, plain):
        assert np.abs(one(paddle.to_tensor(IDS)).logits.numpy() - exact).max() < 1e-5
