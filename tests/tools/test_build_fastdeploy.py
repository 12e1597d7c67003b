"""tools/build_fastdeploy.sh: what it refuses, and the reader of graphs that stands for paddle2onnx's."""

import shutil
from pathlib import Path

import pytest

from tests.cpp.build import INSTALL, checked, run
from tests.paths import ROOT

FILES = (
    "fastdeploy/core/config.h.in",
    "fastdeploy/runtime/runtime.cc",
    "fastdeploy/pybind/main.cc.in",
    "python/fastdeploy/runtime.py",
    "python/fastdeploy/c_lib_wrap.py.in",
)
needs_compiler = pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "g++", "make"))), reason=f"no compiler: {INSTALL}"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Sources whose every file is empty."""
    for name in FILES:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "source" / "VERSION_NUMBER").write_text("1.1.0\n")
    return tmp_path / "source"


def refusal(source: Path, output: Path, *flags: object) -> str:
    words = ("--source", source, "--output", output)
    result = run("bash", ROOT / "tools" / "build_fastdeploy.sh", *words, *flags)
    assert result.returncode == 2, result.stderr
    return result.stderr.splitlines()[-1]


def test_other_sources_are_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert "has no VERSION_NUMBER: expected FastDeploy's sources" in refusal(tmp_path, output)
    (source / "VERSION_NUMBER").write_text("2.0.0\n")
    assert "is FastDeploy 2.0.0: expected 1.x" in refusal(source, output)
    (source / "VERSION_NUMBER").write_text("1.0.7\n")
    (source / FILES[-1]).unlink()
    assert f"(FastDeploy 1.0.7) has no {FILES[-1]}" in refusal(source, output)
    assert not output.exists()


@needs_compiler
def test_what_is_missing_is_named(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for flags, message in (
        ((), "give --onnxruntime_dir"),
        (("--onnxruntime_dir", tmp_path), "has no include/onnxruntime_cxx_api.h"),
        (("--engines", "openvino", "--openvino_dir", tmp_path), "has no openvino/openvino.hpp"),
        (("--engines", "tensorrt"), "--engines tensorrt: expected onnx_runtime, openvino or both"),
        (("--nonsense",), "unknown option --nonsense"),
        (("--python",), "--python needs a value"),
    ):
        assert message in refusal(source, output, *flags)
    assert not output.exists()


@needs_compiler
def test_the_output_is_whole_or_as_it_was(source: Path, tmp_path: Path) -> None:
    """Also where compiling fails; a folder of others is never replaced."""
    output, ort = tmp_path / "out", tmp_path / "ort"
    output.mkdir()
    (output / "mine").touch()
    flags = ("--engines", "onnx_runtime", "--onnxruntime_dir", ort)
    assert "exists: give --overwrite" in refusal(source, output, *flags)
    assert "is not a folder that this script installed" in refusal(source, output, *flags, "--overwrite")
    (output / "FastDeploy.cmake").touch()
    library = ort / "lib" / "libonnxruntime.so.1"
    for path in (ort / "include" / "onnxruntime_cxx_api.h", library):
        path.parent.mkdir(parents=True)
        path.touch()
    assert f"{library} is not a shared library" in refusal(source, output, *flags, "--overwrite")
    checked("g++", "-shared", "-x", "c++", "/dev/null", f"-Wl,-soname,{library.name}", "-o", library)
    (source / "fastdeploy/runtime/runtime.cc").write_text("#error incomplete\n")
    assert "FastDeploy could not be built" in refusal(source, output, *flags, "--overwrite")
    assert {path.name for path in output.iterdir()} == {"mine", "FastDeploy.cmake"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "ort"}


READER = r"""
#include <fstream>
#include <iostream>
#include <iterator>
#include "paddle2onnx/converter.h"
int main(int, char** arguments) {
    std::ifstream file(arguments[1], std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    const paddle2onnx::OnnxReader reader(bytes.data(), bytes.size());
    for (int index = 0; index < reader.num_inputs; ++index) std::cout << reader.inputs[index].name << "\n";
    for (int index = 0; index < reader.num_outputs; ++index) std::cout << reader.outputs[index].name << "\n";
}
"""


@needs_compiler
def test_names_of_a_graph_in_their_order(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = [onnx.helper.make_tensor_value_info(name, 1, ["n", 3]) for name in ("b", "a", "c" * 80)]
    nodes = [onnx.helper.make_node("Add", ["b", "a"], ["sum"]), onnx.helper.make_node("Abs", ["b"], ["abs"])]
    outputs = [onnx.helper.make_tensor_value_info(name, 1, ["n", 3]) for name in ("sum", "abs")]
    weight = onnx.helper.make_tensor("weight", 1, [300], [0.5] * 300)
    graph = onnx.helper.make_graph(nodes, "graph", values, outputs, [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "graph.onnx")
    (tmp_path / "reader.cc").write_text(READER)
    include = f"-I{ROOT / 'tools' / 'fastdeploy' / 'include'}"
    program, flags = tmp_path / "reader", ("-std=c++17", "-Wall", "-Wextra", "-Werror", include)
    checked("g++", *flags, tmp_path / "reader.cc", "-o", program)
    assert checked(program, tmp_path / "graph.onnx").split() == ["b", "a", "c" * 80, "sum", "abs"]
