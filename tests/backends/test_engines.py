"""Every engine gives the tokens and the numbers of the model, over exported folders of every family."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.auto.backend import backends_for, open_backend
from paddle_glm.auto.engine import open_engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends import Backend
from paddle_glm.backends import fastdeploy as fastdeploy_backend
from paddle_glm.backends.generation_meta import META_FILE_NAME
from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.config import ModelConfig
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.models.dygraph import DygraphBackend
from tests.backends.conftest import Case
from tests.paths import ROOT
from tests.reading import add_rows

ENGINES = backends_for("onnx")
OPTIONS = {"cpu_threads": 1}
WAYS = {
    "greedy": {"do_sample": False},
    "penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "beam": {"do_sample": False, "num_beams": 3, "eos_token_ids": (2,)},
    "sampling": {"seed": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_paddle(engine: Backend, case: Case, way: str) -> None:
    params = GenerationParams(max_new_tokens=8, **WAYS[way])
    for prompts in ([case.prompts[0]], case.prompts):
        tokens = generate_batch(engine, prompts, params)
        assert tokens == case.expected(params, prompts)
        assert all(tokens)


def test_logits_are_those_of_the_model(engine: Backend, case: Case) -> None:
    dygraph = DygraphBackend(case.model)
    width = max(map(len, case.prompts))
    ids = np.array([[0] * (width - len(row)) + row for row in case.prompts])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in case.prompts])
    differences = [np.abs(engine.prefill(ids, mask) - dygraph.prefill(ids, mask)).max()]
    for token in range(20, 24):
        step = np.array([token, token + 5, token + 9])
        differences.append(np.abs(engine.decode(step) - dygraph.decode(step)).max())
    assert max(differences) < 1e-5


def test_rows_join_and_leave(engine: Backend, case: Case) -> None:
    """A row's logits do not depend on those that come and go beside it."""
    assert isinstance(engine, KVCacheBackend)
    long, short = (np.array([row]) for row in (case.prompts[2], case.prompts[1]))
    alone = case.paddle
    expected = [alone.prefill(short, np.ones_like(short)), alone.decode(np.array([30]))]
    engine.prefill(long, np.ones_like(long))
    engine.decode(np.array([20]))
    joined = add_rows(engine, short, np.ones_like(short))
    both = engine.decode(np.array([21, 30]))
    engine.select(np.array([1]))
    engine.drop_padding()
    assert np.abs(joined - expected[0]).max() < 1e-5
    assert np.abs(both[1] - expected[1]).max() < 1e-5
    assert np.abs(engine.decode(np.array([31])) - alone.decode(np.array([31]))).max() < 1e-5


def test_the_format_chooses_the_engine(onnx_folder) -> None:
    assert type(open_engine(onnx_folder, **OPTIONS).backend).__name__ == "OnnxRuntimeBackend"


@pytest.mark.parametrize("name", ENGINES)
def test_a_prompt_leaves_no_trace_in_the_next(name: str, onnx_folder, fastdeploy) -> None:
    backend = open_backend(name, onnx_folder, **OPTIONS)
    params = GenerationParams(max_new_tokens=6, do_sample=False)
    first = generate_batch(backend, [[5, 6, 7, 8]], params)
    generate_batch(backend, [[300], [10, 11]], params)
    assert generate_batch(backend, [[5, 6, 7, 8]], params) == first


def test_fastdeploy_sees_a_masked_column_and_no_empty_array(case: Case, fastdeploy) -> None:
    backend = open_backend("fastdeploy", case.onnx, **OPTIONS)
    generate_batch(backend, case.prompts, GenerationParams(max_new_tokens=2, do_sample=False))
    (runtime,) = fastdeploy.Runtime.built
    first, second = runtime.steps
    prefix = backend.meta.first_cache
    prefix_length = 1 if prefix is None else prefix.length
    width = max(map(len, case.prompts))
    assert first["past_key_0"][2] == prefix_length
    assert first["attention_mask"] == (3, prefix_length + width)
    assert second["past_key_0"][2] == prefix_length + width
    assert list(backend.prefix_mask) == ([0] if prefix is None else [1] * prefix.length)


@pytest.mark.parametrize(
    ("name", "device", "told"),
    [("onnx_runtime", "cpu", "ORT"), ("openvino", "cpu", "OPENVINO"), ("onnx_runtime", "gpu", "ORT"),
     ("tensorrt", "gpu", "TRT")],
)  # fmt: skip
def test_what_fastdeploy_is_told(name, device, told, onnx_folder, fastdeploy, monkeypatch) -> None:
    monkeypatch.setattr(fastdeploy, "is_built_with_gpu", lambda: True)
    assert name in fastdeploy_backend.ENGINES
    options = {"device": device, "device_id": 1, "cpu_threads": 3, "fastdeploy_engine": name}
    backend = open_backend("fastdeploy", onnx_folder, **options)
    option = fastdeploy.Runtime.built[0].runtime_option
    assert option.model == (str(onnx_folder / "chatglm.onnx"), "", fastdeploy.ModelFormat.ONNX)
    assert (option.engine, option.device) == (told, device)
    assert (option.device_id, option.threads) == ((1, -1) if device == "gpu" else (0, 3))
    shapes = option.trt_option.shapes
    assert set(shapes) == ({one.name for one in backend.meta.inputs} if name == "tensorrt" else set())
    if shapes:
        assert shapes["past_key_0"] == ([1, 2, 1, 16], [1, 2, 1024, 16], [8, 2, 2048, 16])


@pytest.mark.parametrize(
    ("target", "asked", "told"),
    [("portable", "auto", "ORT"), ("onnxruntime", "auto", "ORT"), ("openvino", "auto", "OPENVINO"),
     ("onnxruntime", "openvino", "OPENVINO")],
)  # fmt: skip
def test_fastdeploy_runs_the_engine_of_the_target(
    target, asked, told, onnx_folder, fastdeploy, tmp_path
) -> None:
    path = shutil.copytree(onnx_folder, tmp_path / "copy") / META_FILE_NAME
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "target": target}), encoding="utf-8")
    open_backend("fastdeploy", path.parent, fastdeploy_engine=asked, **OPTIONS)
    assert fastdeploy.Runtime.built[0].runtime_option.engine == told


def test_fastdeploy_keeps_integers_of_portable_graphs(make_case, fastdeploy) -> None:
    for name in ("chatglm2", "chatglm-int8"):
        open_backend("fastdeploy", make_case(name).onnx, **OPTIONS)
    options = [one.runtime_option.ort_option for one in fastdeploy.Runtime.built]
    assert [one.graph_optimization_level for one in options] == [-1, 0]


# Prints MiB that loading takes, and those that many steps take.
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from paddle_glm.auto.backend import open_backend
import onnxruntime, openvino, paddle
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024
before = resident()
backend = open_backend(sys.argv[1], sys.argv[2], cpu_threads=1)
loaded = resident()
backend.prefill(np.array([[5, 6]]), np.array([[1, 1]]))
for _ in range(int(sys.argv[3])):
    backend.decode(np.array([30]))
print(loaded - before, resident() - loaded)
"""


def memory(name: str, folder: Path, steps: int) -> list[int]:
    words = [sys.executable, "-c", MEMORY, name, str(folder), str(steps)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.splitlines()[-1].split()]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_memory_does_not_grow_with_every_length(name: str, onnx_folder: Path) -> None:
    """By its defaults OpenVINO keeps kernels of 5000 lengths: 1.2 GB after 1500 steps of this tiny model."""
    assert memory(name, onnx_folder, 1000)[1] < 450


@pytest.mark.parametrize(("name", "format"), [("paddle", "paddle"), ("onnxruntime", "onnx")])
def test_integers_stay_small_in_memory(name, format, tiny_checkpoint, tmp_path) -> None:
    """Folded at loading, they would be float weights: 24 million are 92 MiB, 11 MiB in 4 bits."""
    tiny = ModelConfig.from_pretrained(tiny_checkpoint)
    sizes = {"hidden_size": 1024, "num_attention_heads": 8, "head_dim": 128, "ffn_hidden_size": 2816}
    config = replace(tiny, quantization_bit=4, **sizes)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    export_model(AutoModel.from_config(config), tokenizer, tmp_path / "out", format=format)
    assert memory(name, tmp_path / "out", 0)[0] < 80
