"""The table of backends and their options, and a new backend: one file and one line."""

import json
import sys
from pathlib import Path

import pytest

from paddle_glm.auto.backend import BACKENDS, BackendEntry, make_options, open_backend
from paddle_glm.backends.options import BackendOptions
from paddle_glm.errors import InputError
from paddle_glm.main import main


def test_an_unknown_backend_lists_the_known(tmp_path):
    with pytest.raises(InputError, match="'tensorflow' is unknown: expected one of dygraph, paddle"):
        open_backend("tensorflow", tmp_path)


@pytest.mark.parametrize(("name", "value"), [("device", "tpu"), ("cpu_threads", -1), ("device_id", -1)])
def test_options_that_cannot_work(name, value):
    with pytest.raises(InputError, match=str(value)):
        BackendOptions(**{name: value})


def test_a_gpu_has_one_number():
    with pytest.raises(InputError, match="device gpu:1 and device_id 2"):
        BackendOptions("gpu:1", 2)


@pytest.mark.parametrize(
    ("backend", "option", "value", "message"),
    [
        ("openvino", "fastdeploy_engine", "openvino", "--fastdeploy_engine openvino: the backend openvino "
         "does not take it, only fastdeploy does"),
        ("paddle", "lora_path", "x", "only dygraph does: give it to `paddle-glm export`"),
        ("dygraph", "model_prefix", "x", "only paddle and onnxruntime and openvino and fastdeploy do"),
        ("dygraph", "colour", "red", "colour is no option of any backend: expected device, device_id, cpu"),
        ("dygraph", "quantization_bit", 3, "quantization_bit 3 is not one of"),
    ],
)  # fmt: skip
def test_an_option_of_another_backend_names_it(backend, option, value, message):
    with pytest.raises(InputError, match=message):
        make_options(backend, **{option: value})


OWN_BACKEND = """
from dataclasses import dataclass
from paddle_glm.backends.onnx_runtime import OnnxRuntimeBackend
from paddle_glm.backends.options import GraphOptions, option

@dataclass(frozen=True)
class OwnOptions(GraphOptions):
    own_level: int = option(1, "how own it is", int, choices=(1, 2))

class OwnBackend(OnnxRuntimeBackend):
    def __init__(self, folder, options):
        super().__init__(folder, options)
        print(f"level {options.own_level}")
"""


@pytest.fixture
def own_backend(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_backend.py").write_text(OWN_BACKEND, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_backend", raising=False)
    from own_backend import OwnOptions

    monkeypatch.setitem(BACKENDS, "own", BackendEntry("own_backend:OwnBackend", OwnOptions, "onnx"))


@pytest.mark.parametrize("command", ["chat", "serve", "web", "infer", "predict"])
def test_commands_offer_a_new_backend_with_its_options(command, own_backend, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "fastdeploy,own}" in text and "--own_level {1,2}" in text and "how own it is" in text


def test_a_new_backend_answers(own_backend, onnx_folder: Path, tmp_path: Path, capsys):
    def answers(backend: str, *flags: str) -> list[dict]:
        out = tmp_path / f"{backend}.jsonl"
        words = ["--model_path", str(onnx_folder), "--tgt_length", "4", "--output_file", str(out)]
        assert main(["infer", *words, "--backend", backend, *flags]) == 0
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    assert answers("own", "--own_level", "2") == answers("onnxruntime")
    assert "level 2" in capsys.readouterr().out


def test_a_flag_of_another_backend_is_an_error(own_backend, onnx_folder: Path, capsys):
    command = ["infer", "--model_path", str(onnx_folder), "--own_level", "2"]
    assert main(command) == 2
    message = "--own_level 2: the backend onnxruntime does not take it, only own does"
    assert message in capsys.readouterr().err
