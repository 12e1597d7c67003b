"""The ONNX file itself: what it says, what it holds, and what is refused before it is written."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.export.onnx_export import check_onnx_limits
from paddle_glm.layers.activation import gelu_tanh
from paddle_glm.main import main
from paddle_glm.models.family import family_of


@pytest.fixture(scope="module", params=["float32", "float16"])
def exported(request, tiny_checkpoint, tmp_path_factory) -> tuple[GenerationMeta, Path]:
    folder = tmp_path_factory.mktemp("onnx") / request.param
    model = AutoModel.from_pretrained(tiny_checkpoint, dtype=request.param)
    meta = export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), folder, format="onnx")
    return meta, folder


def test_the_file_says_what_the_meta_data_says(exported) -> None:
    meta, folder = exported
    assert GenerationMeta.read(folder).inputs == meta.inputs
    assert (meta.format, meta.graph_files) == ("onnx", ("chatglm.onnx",))
    graph = onnx.load(str(folder / "chatglm.onnx"))
    assert graph.opset_import[0].version <= 17 and graph.ir_version <= 8
    assert [one.name for one in graph.graph.input] == [one.name for one in meta.inputs]
    assert [one.name for one in graph.graph.output] == [one.name for one in meta.outputs]
    assert meta.outputs[0].name == "logits"
    read = {name for node in graph.graph.node for name in node.input}
    assert {one.name for one in graph.graph.initializer} <= read
    onnx.checker.check_model(graph, full_check=True)


def test_one_graph_is_left_and_weights_have_their_dtype(exported) -> None:
    meta, folder = exported
    assert not {"chatglm.json", "chatglm.pdiparams"} & {path.name for path in folder.iterdir()}
    graph = onnx.load(str(folder / "chatglm.onnx")).graph
    tensors = [
        *graph.initializer,
        *(one.t for node in graph.node for one in node.attribute if one.HasField("t")),
    ]
    kind = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}[meta.stored_dtype]
    stored = sum(int(np.prod(one.dims)) for one in tensors if one.data_type == kind and len(one.dims) == 2)
    config = ModelConfig.from_pretrained(folder)
    weights = (spec for spec in family_of(config).parameters(config).values() if len(spec.shape) == 2)
    rotary = 2048 * 8 if meta.stored_dtype == "float32" else 0
    assert stored - rotary == sum(int(np.prod(spec.shape)) for spec in weights)


def test_gelu_is_the_approximation_in_a_graph_too() -> None:
    """paddle2onnx would make the exact one of Paddle's operator: 4.7e-4 away."""
    x = paddle.linspace(-6, 6, 1001)
    traced = paddle.jit.to_static(gelu_tanh, full_graph=True)
    assert np.abs(gelu_tanh(x).numpy() - traced(x).numpy()).max() < 1e-6
    exact = paddle.nn.functional.gelu(x).numpy()
    assert np.abs(exact - traced(x).numpy()).max() > 1e-4


REAL_SIZES = {
    "num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 2,
    "head_dim": 128, "ffn_hidden_size": 13696, "vocab_size": 65024, "max_sequence_length": 32768,
}  # fmt: skip


def test_sizes_above_two_gib_are_refused_from_the_configuration_alone(tiny_checkpoint) -> None:
    tiny = ModelConfig.from_pretrained(tiny_checkpoint)
    check_onnx_limits(tiny, "float32")
    real = replace(tiny, **REAL_SIZES)
    with pytest.raises(InputError, match=r"11\.63 GiB in float16.* --format paddle"):
        check_onnx_limits(real, "float16")
    # 2 layers with the real vocabulary: too much in float32, and below the limit in float16.
    fewer = replace(real, num_layers=2)
    with pytest.raises(InputError, match=r"GiB in float32"):
        check_onnx_limits(fewer, "float32")
    check_onnx_limits(fewer, "float16")
    packed = replace(real, num_layers=8, quantization_bit=4, quantization_embeddings=True)
    check_onnx_limits(packed, "float16")
    with pytest.raises(InputError, match=r"2\.9\d GiB in float16.*quantise"):
        check_onnx_limits(replace(packed, num_layers=28), "float16")


def test_the_command_refuses_a_large_model_before_it_reads_it(tiny_checkpoint, tmp_path, capsys) -> None:
    tiny = ModelConfig.from_pretrained(tiny_checkpoint)
    replace(tiny, **REAL_SIZES).save_pretrained(tmp_path)  # there are no weights to read
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    words = ["export", "--model_name_or_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    assert main([*words, "--format", "onnx", "--dtype", "float32"]) == 2
    assert "an ONNX file holds less than 2 GiB" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_refused_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    half = AutoModel.from_pretrained(tiny_checkpoint, dtype="bfloat16")
    with pytest.raises(InputError, match=r"dtype bfloat16 with the format onnx.*float32, float16"):
        export_model(half, tokenizer, tmp_path / "out", format="onnx")
    model = AutoModel.from_pretrained(tiny_checkpoint)
    with pytest.raises(InputError, match="format 'coreml' is unknown"):
        export_model(model, tokenizer, tmp_path / "out", format="coreml")
    monkeypatch.setitem(sys.modules, "paddle2onnx", None)
    with pytest.raises(InputError, match=r"paddle2onnx cannot be imported.*pip install .*\[onnx\]"):
        export_model(model, tokenizer, tmp_path / "out", format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_formats_are_spelled_in_the_meta_data(exported) -> None:
    _, folder = exported
    values = json.loads((folder / "generation_meta.json").read_text(encoding="utf-8"))
    assert values["format"] == "onnx" and "chatglm.onnx" in values["files"]
