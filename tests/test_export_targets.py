"""ONNX graphs whose products with integers are an engine's own: what they store, and the model's numbers."""

import numpy as np
import onnx
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.main import main
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.numpy_interop import to_numpy
from paddle_glm.quantization.packing import dequantize
from paddle_glm.tiny.checkpoint import write_checkpoint

# Group size None: the default; 0: one scale per output, in blocks of which the last may be filled up.
WAYS = {
    **{"int4": (4,), "int4-channels": (4, 0), "int4-groups": (4, 16), "int4-all": (4, 16, True)},
    **{"int8": (8,), "int8-groups": (8, 16), "int8-all": (8, None, True)},
}
LAYER = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"


@pytest.fixture(scope="module", params=WAYS)
def quantized(request, tiny_checkpoint):
    return AutoModel.from_pretrained(tiny_checkpoint).quantize(*WAYS[request.param])


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return AutoTokenizer.from_pretrained(tiny_checkpoint)


def stored_weight(folder, bits: int, target: str) -> np.ndarray:
    """The float32 weight of `LAYER` that a graph's initializers stand for."""
    graph = onnx.load(str(folder / "chatglm.onnx")).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    if target == "openvino":
        weight = arrays[f"{LAYER}_integers"].astype(np.float32) * arrays[f"{LAYER}_integer_scale"]
        return weight.reshape(len(weight), -1)
    blocks, scale = arrays[f"{LAYER}_blocks"], arrays[f"{LAYER}_block_scale"]
    (node,) = (
        node for node in graph.node if node.op_type == "MatMulNBits" and f"{LAYER}_blocks" in node.input
    )
    inputs = next(one.i for one in node.attribute if one.name == "K")
    if bits == 4:
        blocks = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:2], -1)
    signed = blocks.astype(np.float32) - 2 ** (bits - 1)
    weight = (signed * scale.reshape(*blocks.shape[:2], 1)).reshape(len(blocks), -1)
    assert not weight[:, inputs:].any()
    return weight[:, :inputs]


def relative_difference(graph, model) -> float:
    dygraph = DygraphBackend(model)
    ids, mask = np.array([[5, 6, 7], [0, 8, 9]]), np.array([[1, 1, 1], [0, 1, 1]])
    pairs = [(graph.prefill(ids, mask), dygraph.prefill(ids, mask))]
    for token in (20, 21):
        step = np.array([token, token + 5])
        pairs.append((graph.decode(step), dygraph.decode(step)))
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


@pytest.mark.parametrize(
    ("target", "arithmetic", "backends"),
    [("onnxruntime", "int8", ("onnxruntime", "openvino")), ("onnxruntime", "float32", ("onnxruntime",)),
     ("openvino", "int8", ("openvino",))],
)  # fmt: skip
def test_numbers_are_the_models(quantized, tokenizer, target, arithmetic, backends, tmp_path):
    bits = quantized.config.quantization_bit
    options = {"format": "onnx", "target": target, "arithmetic": arithmetic}
    if (bits, target, arithmetic) == (8, "onnxruntime", "float32"):
        with pytest.raises(InputError, match="int8 weights: ONNX Runtime multiplies those in int8 only"):
            export_model(quantized, tokenizer, tmp_path / "out", **options)
        return
    export_model(quantized, tokenizer, tmp_path / "out", **options)
    assert GenerationMeta.read(tmp_path / "out").target == target
    parameters = dict(quantized.named_parameters())
    values, scale = (to_numpy(parameters[name]) for name in (LAYER, f"{LAYER}_scale"))
    assert np.array_equal(stored_weight(tmp_path / "out", bits, target), dequantize(values, scale, bits))
    limit = 1e-5 if arithmetic == "float32" else 3e-2
    for backend in backends:
        graph = open_backend(backend, tmp_path / "out", cpu_threads=1)
        assert relative_difference(graph, quantized) < limit


def test_the_command_takes_the_target(tiny_checkpoint, tmp_path, capsys):
    start = ["export", "--model_name_or_path", str(tiny_checkpoint), "--output_path", str(tmp_path / "out")]
    assert main([*start, "--target", "openvino"]) == 2
    assert "only the format onnx has targets" in capsys.readouterr().err
    start += ["--format", "onnx", "--quantization_bit", "8"]
    groups = ["--quantization_group_size", "8", "--target", "onnxruntime"]
    assert main([*start, *groups]) == 2
    assert "takes multiples of 16: give --target portable" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*start, "--target", "openvino"]) == 0
    model = AutoModel.from_pretrained(tiny_checkpoint, quantization_bit=8)
    assert relative_difference(open_backend("openvino", tmp_path / "out", cpu_threads=1), model) < 3e-2


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_an_embedding_that_is_the_head_too(target, tiny_rows, tmp_path):
    """ChatGLM-6B looks tokens up in the weight that it multiplies with."""
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(tmp_path / "model", texts, family="chatglm", vocab_size=512, ffn_hidden_size=96)
    model = AutoModel.from_pretrained(tmp_path / "model").quantize(4, 16, True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    export_model(model, tokenizer, tmp_path / "out", format="onnx", target=target, arithmetic="float32")
    ids = np.array([[20, 21, 5, 8]])
    expected = DygraphBackend(model).prefill(ids, np.ones_like(ids))
    found = open_backend(target, tmp_path / "out", cpu_threads=1).prefill(ids, np.ones_like(ids))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
