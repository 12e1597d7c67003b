"""Quantised weights in the order of Paddle's fused product, and products with them on a GPU."""

import copy

import numpy as np
import paddle
import pytest
from paddle.nn.quant import weight_quantize

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.kernels import gpu, gpu_packing
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import fused_weights
from paddle_glm.parallel.layers import ParallelWeight
from paddle_glm.quantization.packing import pack_int4
from tests.fused_operators import use_fused_operators

CONFIG = ModelConfig(
    num_layers=1,
    hidden_size=128,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    ffn_hidden_size=192,
    vocab_size=128,
)
# Bits, group size (0: one scale per output), also embedding and head -> layers whose product is fused.
WAYS = {
    "int8": (8, None, False, 4),
    "int4-64": (4, 64, False, 4),
    "int4-rows": (4, 0, False, 4),
    "int8-all": (8, None, True, 5),
}
IDS = np.array([[5, 8, 7, 93, 90, 21], [3, 3, 9, 93, 90, 4]])


def quantized_model(way: str) -> CausalLM:
    return AutoModel.from_config(CONFIG).quantize(*WAYS[way][:3])


def logits(model: CausalLM) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(IDS)).logits.numpy()


def without_fused(model: CausalLM) -> np.ndarray:
    """Logits by other products; weights are left in the hub's order."""
    expected = logits(model)
    model.state_dict()
    return expected


def packed_layers(model: CausalLM) -> int:
    layers = [layer for layer in model.sublayers() if isinstance(layer, ParallelWeight)]
    return sum(layer._parameters.packed is not None for layer in layers)


@pytest.mark.parametrize("capability", [80, 86, 89, 90])
@pytest.mark.parametrize("bits", [8, 4])
def test_order_is_paddles(bits, capability):
    """Integers whose scale is 1 keep their values in Paddle's own quantisation, which runs on CPUs too."""
    largest = 2 ** (bits - 1) - 1
    integers = np.random.default_rng(0).integers(-largest, largest + 1, (128, 192)).astype(np.int8)
    integers[:, 5] = largest
    floats = paddle.to_tensor(integers.T.astype(np.float32)).astype("float16")
    theirs, scale = weight_quantize(floats, f"weight_only_int{bits}", arch=capability)
    assert (scale.numpy() == 1).all()
    hub = integers if bits == 8 else pack_int4(integers)
    ours = gpu_packing.pack(paddle.to_tensor(hub), bits)
    np.testing.assert_array_equal(ours.numpy().ravel(), theirs.numpy().ravel())


@pytest.mark.parametrize("bits", [8, 4])
def test_hub_order_comes_back(bits):
    hub = np.random.default_rng(0).integers(-128, 128, (16, 128 * bits // 8)).astype(np.int8)
    packed = gpu_packing.pack(paddle.to_tensor(hub), bits)
    np.testing.assert_array_equal(gpu_packing.unpack(packed, bits).numpy(), hub)


@pytest.mark.parametrize("way", WAYS)
def test_logits(way, monkeypatch):
    model = quantized_model(way)
    expected = without_fused(model)
    calls = use_fused_operators(monkeypatch)
    found = logits(model)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max(), rtol=0)
    assert calls.counts["product"] == packed_layers(model) == WAYS[way][3]


def test_whoever_reads_weights_gets_the_hubs_order(monkeypatch):
    model = quantized_model("int4-64")
    weights = {name: array.copy() for name, array in model.named_arrays()}
    use_fused_operators(monkeypatch)
    logits(model)
    assert packed_layers(copy.deepcopy(model)) == 0
    logits(model)
    for name, array in model.named_arrays():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)


def test_training_is_dequantised(monkeypatch):
    calls = use_fused_operators(monkeypatch)
    model = quantized_model("int8")
    logits(model)
    model.train()
    x = paddle.to_tensor(np.ones((1, 3), np.int64))
    model(x, labels=x).loss.backward()
    assert calls.counts["product"] == 4 and packed_layers(model) == 0


def test_what_the_product_does_not_take_is_dequantised_and_said_once(monkeypatch, capsys):
    model = AutoModel.from_config(CONFIG).quantize(4, 32)
    expected = without_fused(model)
    fused_weights._report_once.cache_clear()
    calls = use_fused_operators(monkeypatch)
    for _ in range(2):
        np.testing.assert_allclose(logits(model), expected, atol=1e-6)
    assert "product" not in calls.counts
    line = "paddle-glm: int4 weights are dequantised in every product: group size 32, where"
    assert capsys.readouterr().err.count(line) == 1


def test_obstacles(monkeypatch):
    monkeypatch.setattr(gpu, "capability", lambda: 80)
    assert gpu.product_obstacle(4608, 4096, None) is None and gpu.product_obstacle(4096, 13696, 128) is None
    assert "3424 inputs" in str(gpu.product_obstacle(4096, 3424, None))
    monkeypatch.setattr(gpu, "capability", lambda: 70)
    assert "7.0" in str(gpu.product_obstacle(4608, 4096, None))
