"""What the engines refuse, and that the message says how to mend it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.engine import open_engine
from paddle_glm.backends import onnx_runtime
from paddle_glm.backends.fastdeploy import FastDeployOptions
from paddle_glm.backends.generation_meta import META_FILE_NAME
from paddle_glm.backends.options import GraphOptions
from paddle_glm.errors import InputError
from tests.paths import ROOT


@pytest.fixture
def damaged(onnx_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(onnx_folder, tmp_path / "copy")


def test_a_cut_file_is_named(damaged: Path) -> None:
    path = damaged / "chatglm.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    for name in ("onnxruntime", "openvino", "fastdeploy"):
        with pytest.raises(InputError, match=r"chatglm\.onnx has \d+ bytes of \d+: copy or export"):
            open_backend(name, damaged)


def test_a_graph_for_another_engine(damaged: Path) -> None:
    path = damaged / META_FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "target": "openvino"}))
    with pytest.raises(InputError, match=r"openvino, or export .* --target portable or onnxruntime"):
        open_backend("onnxruntime", damaged)
    open_backend("openvino", damaged)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_file_of_the_right_size_that_is_no_graph(damaged: Path, name: str) -> None:
    path = damaged / "chatglm.onnx"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(InputError, match=r"chatglm\.onnx cannot be loaded \(.+\): copy or export") as caught:
        open_backend(name, damaged)
    assert "\n" not in str(caught.value)


def test_a_folder_of_the_other_format_names_its_backends(onnx_folder: Path, make_case) -> None:
    with pytest.raises(InputError, match="format onnx, which --backend onnxruntime or openvino or fastdep"):
        open_backend("paddle", onnx_folder)
    paddle_folder = make_case("chatglm2").onnx.parent / "paddle"
    with pytest.raises(InputError, match=r"format paddle, which --backend paddle reads; .*--format onnx"):
        open_backend("openvino", paddle_folder)


def test_a_model_folder_is_no_exported_one(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="no exported folder: backend 'onnxruntime'"):
        open_engine(tiny_checkpoint, backend="onnxruntime")


def test_a_folder_from_before_there_were_formats_is_paddles(damaged: Path, make_case) -> None:
    folder = make_case("chatglm2").onnx.parent / "paddle"
    values = json.loads((folder / META_FILE_NAME).read_text(encoding="utf-8"))
    assert values.pop("format") == "paddle"
    copy = shutil.copytree(folder, damaged.parent / "old")
    (copy / META_FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
    assert type(open_engine(copy).backend).__name__ == "PaddleInferenceBackend"
    (copy / META_FILE_NAME).write_text(json.dumps({**values, "format": "coreml"}), encoding="utf-8")
    with pytest.raises(InputError, match="format 'coreml' is unknown: expected one of paddle, onnx"):
        open_engine(copy)


@pytest.mark.parametrize(
    ("name", "command"),
    [("onnxruntime", r"pip install .*\[onnx\]"), ("openvino", r"pip install .*\[openvino\]"),
     ("fastdeploy", "pip install fastdeploy-python")],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_command(name, command, onnx_folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"the package {name} cannot be imported .*{command}"):
        open_backend(name, onnx_folder)


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [("onnxruntime", None, "pip install onnxruntime-gpu"), ("openvino", None, "on CPUs"),
     ("fastdeploy", "onnx_runtime", "install fastdeploy-gpu-python"),
     ("fastdeploy", "openvino", "openvino computes on the cpu")],
)  # fmt: skip
def test_a_gpu_that_cannot_be_used(name, engine, message, onnx_folder, fastdeploy) -> None:
    with pytest.raises(InputError, match=message):
        open_backend(name, onnx_folder, device="gpu", **({"fastdeploy_engine": engine} if engine else {}))


def test_engines_that_fastdeploy_cannot_run_a_target_on(make_case, tmp_path, fastdeploy, monkeypatch) -> None:
    damaged = shutil.copytree(make_case("chatglm-int8").onnx, tmp_path / "copy")
    path = damaged / META_FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "target": "openvino"}))
    for engine, targets in (("onnx_runtime", "portable or onnxruntime"), ("tensorrt", "portable")):
        message = f"{engine} cannot run: take openvino, or export the model again with --target {targets}$"
        with pytest.raises(InputError, match=f"exported with --target openvino, .*{message}"):
            open_backend("fastdeploy", damaged, fastdeploy_engine=engine)
    monkeypatch.setenv("PADDLE_GLM_ARITHMETIC", "float32")
    with pytest.raises(InputError, match=r"ARITHMETIC=float32: .*unset it, or take --backend openvino"):
        open_backend("fastdeploy", damaged)


@pytest.mark.parametrize("engine", ["paddle", "paddle_tensorrt", "tensorrt"])
def test_engines_that_fastdeploy_cannot_use_here(engine: str, onnx_folder: Path, fastdeploy) -> None:
    with pytest.raises(InputError, match=r"tensorrt computes on the gpu|reads \.pdmodel files"):
        open_backend("fastdeploy", onnx_folder, device="cpu", fastdeploy_engine=engine)


def test_auto_takes_the_gpu_only_where_the_engine_has_one(onnx_folder: Path, fastdeploy, monkeypatch) -> None:
    for name in ("onnxruntime", "openvino", "fastdeploy"):  # their packages here compute on CPUs
        assert open_backend(name, onnx_folder, device_id=1)
    with pytest.raises(InputError, match="install fastdeploy-gpu-python"):
        open_backend("fastdeploy", onnx_folder, fastdeploy_engine="tensorrt")
    cuda = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    providers = [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
    assert onnx_runtime._device_and_providers(cuda, GraphOptions(device_id=1)) == ("gpu", providers)
    assert onnx_runtime._device_and_providers(cuda, GraphOptions("cpu")) == ("cpu", ["CPUExecutionProvider"])
    assert onnx_runtime._device_and_providers(cuda[1:], GraphOptions()) == ("cpu", ["CPUExecutionProvider"])


def test_a_session_that_did_not_get_the_gpu(onnx_folder: Path, monkeypatch) -> None:
    """onnxruntime-gpu on a machine without one computes on the CPU with a warning alone."""
    providers = ("gpu", ["CPUExecutionProvider"])
    monkeypatch.setattr(onnx_runtime, "_device_and_providers", lambda *_: providers)
    assert open_backend("onnxruntime", onnx_folder)
    with pytest.raises(
        InputError, match="device gpu:1: onnxruntime cannot use a GPU here; give --device cpu"
    ):
        open_backend("onnxruntime", onnx_folder, device="gpu:1")


def test_an_engine_that_fastdeploy_does_not_have() -> None:
    with pytest.raises(InputError, match="'ncnn' is not one of auto, onnx_runtime, openvino, tensorrt"):
        FastDeployOptions(fastdeploy_engine="ncnn")


def test_openvino_that_would_compute_in_bfloat16_below_fastdeploy(
    onnx_folder: Path, fastdeploy, tmp_path, monkeypatch
) -> None:
    """FastDeploy has no option against it, and the environment is read once."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    for name, text in (
        ("CPUINFO", "flags : avx512f avx512_bf16"),
        ("_MAPS", "libopenvino_intel_cpu_plugin.so"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(f"paddle_glm.backends.fastdeploy.{name}", tmp_path / name)
    with pytest.raises(InputError, match="set ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI before Python starts"):
        open_backend("fastdeploy", onnx_folder, fastdeploy_engine="openvino")
    (tmp_path / "_MAPS").write_text("libc.so")
    open_backend("fastdeploy", onnx_folder, fastdeploy_engine="openvino")
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_VNNI"


def test_another_project_called_fastdeploy(onnx_folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fastdeploy", ModuleType("fastdeploy"))
    with pytest.raises(InputError, match="has no RuntimeOption, Runtime, ModelFormat: this is not"):
        open_backend("fastdeploy", onnx_folder)


def test_a_runtime_that_does_not_start(onnx_folder: Path, fastdeploy, monkeypatch) -> None:
    def fail(option: object) -> None:
        raise AssertionError("Initialize Runtime Failed!")

    monkeypatch.setattr(fastdeploy, "Runtime", fail)
    with pytest.raises(InputError, match=r"chatglm\.onnx cannot be loaded \(Initialize Runtime Failed!\)"):
        open_backend("fastdeploy", onnx_folder)


def test_a_step_that_fastdeploy_could_not_compute(onnx_folder: Path, fastdeploy) -> None:
    backend = open_backend("fastdeploy", onnx_folder)
    inputs = {"input_ids": np.array([[5]])}  # the others are missing
    with pytest.raises(InputError, match="its log says why the step failed"):
        backend.infer(inputs)
    with pytest.raises(InputError, match="could not compute a step: Failed to find input name"):
        backend.infer({"input_ids": np.array([[5]]), "other": np.array([[5]])})


NO_PADDLE = """
import sys
sys.modules["paddle"] = None
from paddle_glm.main import main
sys.exit(main(["infer", *sys.argv[1:]]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_answers_need_no_paddle(name: str, onnx_folder: Path, tmp_path: Path) -> None:
    words = ["--model_path", str(onnx_folder), "--backend", name, "--tgt_length", "4"]
    found = []
    for program in ([sys.executable, "-m", "paddle_glm.main", "infer"], [sys.executable, "-c", NO_PADDLE]):
        output = tmp_path / f"{len(found)}.jsonl"
        done = subprocess.run(
            [*program, *words, "--output_file", str(output)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.append(output.read_text(encoding="utf-8"))
    assert found[0] == found[1] and found[0].count("\n") == 2
