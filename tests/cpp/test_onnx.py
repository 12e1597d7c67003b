"""Engines over ONNX graphs: ONNX Runtime, OpenVINO, and FastDeploy's engine on a stand-in for its library."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.export import export_model
from tests.cpp.build import build, run
from tests.cpp.test_infer import (
    ASK,
    QUESTIONS,
    TOKENS,
    WAYS,
    Exported,
    give_prefix,
    python_ids,
    refusal,
    rows_of,
    tiny_model,
)

pytest.importorskip("openvino", reason='pip install -c constraints.txt -e ".[onnx,openvino]"')
pytest.importorskip("paddle2onnx", reason='pip install -c constraints.txt -e ".[onnx,openvino]"')

ENGINES = {
    "onnxruntime": (),
    "openvino": ("--engine", "openvino"),
    "fastdeploy": ("--engine", "fastdeploy"),
    "fastdeploy-openvino": ("--engine", "fastdeploy", "--backend", "openvino"),
}


@pytest.fixture(scope="module", params=["chatglm", "chatglm2", "chatglm3"])
def onnx(request, tiny_rows, tmp_path_factory) -> Exported:
    path = tmp_path_factory.mktemp("onnx")
    model, tokenizer = tiny_model(path, request.param, tiny_rows)
    export_model(model, tokenizer, path / "out", format="onnx")
    export_model(model, tokenizer, path / "paddle")
    return Exported(path / "out", open_backend("paddle", path / "paddle"), tokenizer)


@pytest.fixture(scope="module")
def folder(tiny_rows, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx")
    export_model(*tiny_model(path, "chatglm2", tiny_rows), path / "out", format="onnx")
    return path / "out"


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_paddle(onnx, engine, way, tmp_path):
    values, flags = WAYS[way]
    rows = rows_of(onnx, tmp_path, "--batch_size", 3, *flags, *ENGINES[engine])
    assert [row["ids"] for row in rows] == python_ids(onnx, 3, **values)


def steps(log: str) -> list[dict[str, list[int]]]:
    """What the stand-in was given in each step: shapes by name."""
    return [
        {
            name: [int(size) for size in shape.split()]
            for name, shape in re.findall(r"(\w+)\[([\d ]*)\]", line)
        }
        for line in log.splitlines()
        if "Infer " in line
    ]


def test_what_fastdeploy_is_given(folder):
    """A past of one hidden column, no size of 0; what it logs does not get among the answers."""
    asked = ("--model_dir", folder, *ASK, "--max_new_tokens", TOKENS)
    plain = run(build() / "paddle_glm_infer", *asked)
    result = run(build() / "paddle_glm_infer", *asked, *ENGINES["fastdeploy"], "--num_threads", 3)
    assert result.returncode == 0 and result.stdout == plain.stdout
    assert "Backend::ORT in Device::CPU, threads 3." in result.stderr
    prompt, *answer = steps(result.stderr)
    length = prompt["input_ids"][1]
    assert prompt["attention_mask"] == [1, 1 + length] and prompt["position_ids"] == [1, length]
    assert prompt["past_key_0"] == [1, 2, 1, 16] and len(prompt) == 3 + 2 * 2
    for count, step in enumerate(answer):
        assert step["input_ids"] == [1, 1] and step["attention_mask"] == [1, 2 + length + count]
        assert step["past_value_1"] == [1, 2, 1 + length + count, 16]


def test_a_prefix_needs_no_hidden_column(onnx, tmp_path):
    folder = give_prefix(onnx.folder, tmp_path / "prefixed")
    result = run(
        build() / "paddle_glm_infer",
        "--model_dir",
        folder,
        *ASK,
        "--max_new_tokens",
        2,
        *ENGINES["fastdeploy"],
    )
    prompt = steps(result.stderr)[0]
    assert prompt["attention_mask"][1] == 5 + prompt["input_ids"][1] and prompt["past_key_0"][2] == 5
    with_prefix = Exported(folder, open_backend("openvino", folder), onnx.tokenizer)
    for flags in ENGINES.values():
        rows = rows_of(with_prefix, tmp_path, "--batch_size", len(QUESTIONS), *flags)
        assert [row["ids"] for row in rows] == python_ids(with_prefix, len(QUESTIONS), do_sample=False)


def test_backends_of_fastdeploy(folder):
    asked = (build() / "paddle_glm_infer", "--model_dir", folder, *ASK, *ENGINES["fastdeploy"], "--backend")
    for name, message in (
        ("paddle", "reads .pdmodel files"),
        ("other", "is unknown: expected onnx_runtime, openvino or tensorrt"),
        ("tensorrt", "this FastDeploy was built without the backend tensorrt"),
    ):
        result = run(*asked, name)
        assert result.returncode == 2 and message in result.stderr.splitlines()[-1]
    assert "shape of past_key_0 [1 2 1 16] [1 2 1024 16] [8 2 2048 16]" in result.stderr
    assert "shape of attention_mask [1 1] [1 1024] [8 2048]" in result.stderr


def test_engines_that_were_not_built(folder, tmp_path):
    kept = ("paddle_glm_infer", "libpaddle_glm.so", "libpaddle_glm_engine_paddle.so")
    for name in kept:
        shutil.copy(build() / name, tmp_path)
    asked = [tmp_path / kept[0], "--model_dir", folder, *ASK]
    for flags, message in (
        (("--engine", "fastdeploy"), "which has paddle: build FastDeploy 1.x (https://github.com/"),
        ((), "engine 'onnxruntime' is not in"),
    ):
        result = run(*asked, *flags, LD_LIBRARY_PATH=tmp_path)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and message in result.stderr


def test_a_damaged_graph_is_refused(damaged):
    graph = damaged / "chatglm.onnx"
    graph.write_bytes(b"\0" * graph.stat().st_size)
    for name, flags in ENGINES.items():
        result = run(build() / "paddle_glm_infer", "--model_dir", damaged, *ASK, *flags)
        assert result.returncode == 2
        assert f"cannot be opened by engine '{name.partition('-')[0]}'" in result.stderr.splitlines()[-1]
        assert name != "onnxruntime" or result.stderr.count("\n") == 1
    assert "for --engine onnxruntime or openvino or fastdeploy" in refusal(
        "--model_dir", damaged, *ASK, "--engine", "paddle"
    )


def test_weights_apart_are_found_from_any_working_directory(folder, tmp_path):
    asked = ("--model_dir", folder.name, *ASK, "--max_new_tokens", 2)
    assert (folder / "chatglm.onnx.data").stat().st_size > 0
    answers = {
        run(build() / "paddle_glm_infer", *asked, *flags, cwd=folder.parent).stdout
        for flags in ENGINES.values()
    }
    assert len(answers) == 1 and answers != {""}


@pytest.mark.parametrize(("size", "message"), [(None, "is missing"), (100, "has 100 bytes of ")])
def test_weights_that_are_not_whole_are_refused(damaged, size, message):
    weights = damaged / "chatglm.onnx.data"
    kept = weights.read_bytes()
    weights.unlink()
    if size is not None:
        weights.write_bytes(kept[:size])
    assert f"chatglm.onnx.data {message}" in refusal("--model_dir", damaged, *ASK)


def test_targets(damaged):
    """An engine that cannot run a target is refused by name, and not the default."""
    path = damaged / "generation_meta.json"
    asked = ("--model_dir", damaged, *ASK, "--max_new_tokens", 2)
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, "target": "openvino"}), "utf-8")
    chosen = run(build() / "paddle_glm_infer", *asked, PADDLE_GLM_ARITHMETIC="none")
    assert "by engine 'openvino': PADDLE_GLM_ARITHMETIC=none: expected one of auto" in chosen.stderr
    assert "take --engine openvino, or export the model again with --target portable or" in refusal(
        *asked, "--engine", "onnxruntime"
    )
    fastdeploy = [*asked, *ENGINES["fastdeploy"]]
    result = run(build() / "paddle_glm_infer", *fastdeploy)
    assert result.returncode == 0 and "Backend::OPENVINO in Device::CPU" in result.stderr
    result = run(build() / "paddle_glm_infer", *fastdeploy, "--backend", "onnx_runtime")
    assert result.returncode == 2
    assert "exported with --target openvino, which backend onnx_runtime cannot run: take" in result.stderr
    path.write_text(json.dumps({**values, "target": "other"}), "utf-8")
    assert "this program knows portable, onnxruntime and openvino" in refusal(*asked)


def test_threads_of_onnx_runtime(folder):
    """As many as asked for: an entry of the library's table that is not the one declared would not do it."""
    asked = (build() / "paddle_glm_infer", "--model_dir", folder, "--chat", "--num_threads", "5")
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(len("\n用户：".encode()))  # the engine is open
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        process.communicate()
    assert process.returncode == 0 and threads == 5


def test_another_graph_is_refused(damaged):
    path = damaged / "generation_meta.json"
    text = path.read_text("utf-8")
    values = json.loads(text)
    path.write_text(text.replace("past_key_1", "past_key_9"), "utf-8")
    for flags in ENGINES.values():
        result = run(build() / "paddle_glm_infer", "--model_dir", damaged, *ASK, *flags)
        assert result.returncode == 2 and "it takes past_key_1 of float32, which" in result.stderr
    inputs = [*values["inputs"], {**values["inputs"][-1], "name": "past_value_9"}]
    path.write_text(json.dumps({**values, "inputs": inputs}), "utf-8")
    assert "it takes 7 inputs, generation_meta.json names 8" in refusal("--model_dir", damaged, *ASK)


@pytest.mark.parametrize(
    ("wrong", "ends"), [("empty", True), ("dtype", True), ("name", False), ("count", False)]
)
def test_the_stand_in_refuses_what_fastdeploy_refuses(folder, wrong, ends):
    """By ending the process (its FDASSERT) or by returning false (its FDERROR)."""
    result = run(build() / "standin_test", folder / "chatglm.onnx", wrong)
    assert result.returncode == (-signal.SIGABRT if ends else 0)
    assert "[ERROR]" in result.stdout
