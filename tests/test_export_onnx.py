"""The ONNX file itself: what it says, what it holds, and what is refused before it is written."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import paddle
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.generation_meta import GenerationMeta
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.layers.activation import gelu_tanh
from paddle_glm.main import main
from paddle_glm.models.family import family_of
from paddle_glm.peft.lora import attach_lora, merge_and_unload
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix


@pytest.fixture(scope="module", params=["float32", "float16"])
def exported(request, tiny_checkpoint, tmp_path_factory) -> tuple[GenerationMeta, Path]:
    folder = tmp_path_factory.mktemp("onnx") / request.param
    model = AutoModel.from_pretrained(tiny_checkpoint, dtype=request.param)
    meta = export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), folder, format="onnx")
    return meta, folder


def test_the_file_says_what_the_meta_data_says(exported) -> None:
    meta, folder = exported
    assert GenerationMeta.read(folder).inputs == meta.inputs
    assert (meta.format, meta.graph_files) == ("onnx", ("chatglm.onnx", "chatglm.onnx.data"))
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


def test_weights_are_apart_and_aligned(exported) -> None:
    """Engines map them; constants that shapes depend on stay in the graph."""
    _, folder = exported
    graph = onnx.load(str(folder / "chatglm.onnx"), load_external_data=False).graph
    places = [{one.key: one.value for one in tensor.external_data} for tensor in graph.initializer]
    apart = [place for place in places if place]
    assert {place["location"] for place in apart} == {"chatglm.onnx.data"}
    assert all(int(place["offset"]) % 4096 == 0 for place in apart)
    end = max(int(place["offset"]) + int(place["length"]) for place in apart)
    assert end == (folder / "chatglm.onnx.data").stat().st_size
    assert all(
        place or len(one.raw_data) < 1024 for place, one in zip(places, graph.initializer, strict=True)
    )


def initializers(folder: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(str(folder / "chatglm.onnx")).graph
    return {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}


@pytest.mark.parametrize("kind", ["float16", "int4", "int8-lora", "float32-lora", "shards", "prefix"])
def test_the_command_writes_what_the_loaded_model_holds(kind, tiny_checkpoint, tmp_path, capsys) -> None:
    """It reads tensors from the files, one at a time, and never opens the model."""
    dtype, _, adapter = kind.partition("-")
    words = {"dtype": "float16" if dtype == "float16" else "float32"}
    if dtype.startswith("int"):
        words["quantization_bit"] = dtype[3:]
    if adapter or kind == "prefix":
        base = AutoModel.from_pretrained(tiny_checkpoint)
        made = (
            attach_prefix(base, 3, projection=True) if kind == "prefix" else attach_lora(base, LoraConfig())
        )
        random = np.random.default_rng(1)
        made.load_arrays(
            {made.file_names[name]: random.normal(0, 0.1, spec.shape) for name, spec in made.specs.items()}
        )
        made.save_pretrained(tmp_path / "adapter")
        words["ptuning_checkpoint" if kind == "prefix" else "lora_path"] = str(tmp_path / "adapter")
    source = tiny_checkpoint
    if kind == "shards":
        source = tmp_path / "shards"
        reshard(tiny_checkpoint, source, degree=2)
    flags = [word for name, value in words.items() for word in (f"--{name}", value)]
    start = ["export", "--model_name_or_path", str(source), "--format", "onnx"]
    assert main([*start, "--output_path", str(tmp_path / "out"), *flags]) == 0
    assert ("--target onnxruntime" in capsys.readouterr().out) == dtype.startswith("int")
    if bits := words.pop("quantization_bit", None):
        words["quantization_bit"] = int(bits)
    model = AutoModel.from_pretrained(tiny_checkpoint, **words)
    if not bits:
        merge_and_unload(model)
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), tmp_path / "loaded", format="onnx")
    written, expected = initializers(tmp_path / "out"), initializers(tmp_path / "loaded")
    assert list(written) == list(expected)
    for name, array in expected.items():
        assert array.dtype == written[name].dtype
        assert np.allclose(array, written[name], rtol=0, atol=1e-7 if kind == "float32-lora" else 0), name
    first = "chatglm.first_cache.safetensors"
    assert (tmp_path / "out" / first).exists() == (kind == "prefix")
    if kind == "prefix":
        assert (tmp_path / "out" / first).read_bytes() == (tmp_path / "loaded" / first).read_bytes()


def test_files_of_earlier_versions_hold_their_weights(exported, tmp_path) -> None:
    _, folder = exported
    shutil.copytree(folder, tmp_path / "old")
    onnx.save(onnx.load(str(folder / "chatglm.onnx")), str(tmp_path / "old" / "chatglm.onnx"))
    path = tmp_path / "old" / "generation_meta.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["files"]["chatglm.onnx.data"]
    values["files"]["chatglm.onnx"] = (tmp_path / "old" / "chatglm.onnx").stat().st_size
    path.write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "old" / "chatglm.onnx.data").unlink()
    ids = np.array([[5, 6, 7]])
    old, new = (
        open_backend("onnxruntime", one).prefill(ids, np.ones_like(ids)) for one in (tmp_path / "old", folder)
    )
    assert np.array_equal(old, new)


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
