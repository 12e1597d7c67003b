"""What is built: its style, its installation, and its memory."""

import json
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paddle_glm.export import export_model
from tests.cpp.build import STANDIN, build, checked, run
from tests.cpp.test_infer import folder, tiny_model  # noqa: F401
from tests.paths import ROOT

CPP = ROOT / "cpp_infer"


def test_sources_are_formatted():
    # The environment's own first: .venv/bin need not be on the PATH.
    program = shutil.which(
        "clang-format", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if program is None:
        pytest.skip("clang-format not found: pip install clang-format")
    sources = [path for path in CPP.rglob("*") if path.suffix in (".h", ".cc")]
    checked(program, "--dry-run", "-Werror", f"--style=file:{ROOT / '.clang-format'}", *sources)


def test_no_prompt_is_spelled_in_cpp():
    for path in (CPP / "src").iterdir():
        found = re.search(r"Round \d|问：|答：|gMASK|<\|", path.read_text("utf-8"))
        assert found is None, f"{path.name} holds {found}"


def test_the_library_in_another_program(folder, tmp_path):  # noqa: F811
    """The README's program, built against an installed copy."""
    readme = (CPP / "README.md").read_text("utf-8")
    cmake, program = (re.search(rf"```{name}\n(.*?)```", readme, re.S)[1] for name in ("cmake", "cpp"))
    start = "cmake_minimum_required(VERSION 3.18)\nproject(app CXX)\nadd_executable(app app.cc)\n"
    (tmp_path / "CMakeLists.txt").write_text(start + cmake, "utf-8")
    (tmp_path / "app.cc").write_text(program, "utf-8")
    checked("cmake", "--install", build(), "--prefix", tmp_path / "prefix")
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}"
    checked("cmake", "-S", tmp_path, "-B", tmp_path / "build", prefix, "-DCMAKE_CXX_STANDARD=17")
    checked("cmake", "--build", tmp_path / "build")
    said = checked(tmp_path / "build" / "app", folder)
    assert said.endswith("16 tokens\n")
    installed = tmp_path / "prefix" / "bin" / "paddle_glm_infer"
    asked = ("--model_dir", folder, "--prompt", "你好", "--max_new_tokens", 16)
    assert said.startswith(checked(installed, *asked))


def sanitized() -> Path:
    options = ["-DPADDLE_GLM_SANITIZE=ON", "-DPADDLE_GLM_ENGINE_PADDLE=OFF"]
    if find_spec("openvino") is not None:
        options.append(f"-DFASTDEPLOY_INSTALL_DIR={STANDIN}")
    return build("cpp-sanitized", *options)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "fastdeploy"])
def test_sanitizers_find_nothing_in_engines(engine, tiny_rows, tmp_path):
    pytest.importorskip("openvino", reason='pip install -c constraints.txt -e ".[onnx,openvino]"')
    pytest.importorskip("paddle2onnx", reason='pip install -c constraints.txt -e ".[onnx,openvino]"')
    export_model(*tiny_model(tmp_path, "chatglm", tiny_rows), tmp_path / "out", format="onnx")
    asked = ("--model_dir", tmp_path / "out", "--engine", engine, "--prompt", "你好", "--num_beams", 2)
    # OpenVINO leaks some bytes when it ends, and its threads' library has a switch of its own.
    variables: dict[str, object] = {"ASAN_OPTIONS": "detect_leaks=0", "TBB_ENABLE_SANITIZERS": 1}
    # The sanitizer's dlopen stands between the engine and its RUNPATH.
    if (package := find_spec("onnxruntime")) is not None and package.origin is not None:
        variables["LD_LIBRARY_PATH"] = str(Path(package.origin).parent / "capi")
    result = run(sanitized() / "paddle_glm_infer", *asked, "--max_new_tokens", 6, **variables)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_sanitizers_find_nothing(folder, tmp_path):  # noqa: F811
    built = sanitized()
    checked("ctest", "--output-on-failure", cwd=built)
    toy = toy_folder(folder, tmp_path / "toy")
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"content": text} for text in ("你好", "a", "类型#裤", "")]), "utf-8")
    program = (built / "paddle_glm_infer", "--model_dir", toy, "--engine", "toy", "--max_length", 80)
    sampled = ("--temperature", 2, "--seed", 1, "--repetition_penalty", 1.2)
    checked(*program, "--input_file", rows, "--batch_size", 3, *sampled, "--benchmark")
    checked(*program, "--chat", "--seed", 1, stdin="你好\nclear\n再见\n")
    refused = run(*program, "--prompt", "长" * 80)
    assert refused.returncode == 2 and "leaves no room" in refused.stderr


def toy_folder(folder: Path, target: Path) -> Path:  # noqa: F811
    """An exported folder whose graph is that of the toy engine: the size of the vocabulary."""
    shutil.copytree(folder, target)
    path = target / "generation_meta.json"
    values = json.loads(path.read_text("utf-8"))
    graph = str(values["vocab_size"])
    (target / "chatglm.json").write_text(graph, "utf-8")
    path.write_text(json.dumps({**values, "files": {**values["files"], "chatglm.json": len(graph)}}), "utf-8")
    return target
