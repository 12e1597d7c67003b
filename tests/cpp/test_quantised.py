"""int8 and int4 exports: Python's tokens, and weights that stay small in memory."""

import json
import re
import shutil
from pathlib import Path

import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.export import export_model
from paddle_glm.kernels.library import kernel_library
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.cpp.build import build, run
from tests.cpp.test_infer import ASK, WAYS, Exported, python_ids, rows_of, tiny_model

KINDS = {
    "int8": {"bits": 8},
    "int4": {"bits": 4},
    "int4-groups": {"bits": 4, "group_size": 16, "embeddings": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3"])
def test_tokens_are_pythons(family, kind, tiny_rows, tmp_path):
    model, tokenizer = tiny_model(tmp_path, family, tiny_rows)
    model.quantize(**KINDS[kind])
    export_model(model, tokenizer, tmp_path / "out")
    exported = Exported(tmp_path / "out", open_backend("paddle", tmp_path / "out"), tokenizer)
    for way in ("greedy", "beams"):
        values, flags = WAYS[way]
        rows = rows_of(exported, tmp_path, "--batch_size", 3, *flags)
        assert [row["ids"] for row in rows] == python_ids(exported, 3, **values)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_from_onnx(kind, tiny_rows, tmp_path):
    pytest.importorskip("openvino", reason='pip install -c constraints.txt -e ".[onnx,openvino]"')
    pytest.importorskip("paddle2onnx", reason='pip install -c constraints.txt -e ".[onnx,openvino]"')
    model, tokenizer = tiny_model(tmp_path, "chatglm2", tiny_rows)
    model.quantize(**KINDS[kind])
    export_model(model, tokenizer, tmp_path / "paddle")
    export_model(model, tokenizer, tmp_path / "out", format="onnx")
    exported = Exported(tmp_path / "out", open_backend("paddle", tmp_path / "paddle"), tokenizer)
    expected = python_ids(exported, 3, do_sample=False)
    for engine in ("onnxruntime", "openvino", "fastdeploy"):
        rows = rows_of(exported, tmp_path, "--batch_size", 3, "--engine", engine)
        assert [row["ids"] for row in rows] == expected
    asked = ("--model_dir", exported.folder, *ASK, "--max_new_tokens", 2, "--engine", "fastdeploy")
    assert "optimisation level 0" in run(build() / "paddle_glm_infer", *asked).stderr
    path = exported.folder / "generation_meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "target": "onnxruntime"}), "utf-8")
    assert "optimisation level" not in run(build() / "paddle_glm_infer", *asked).stderr
    refused = run(
        build() / "paddle_glm_infer", *asked, "--backend", "openvino", PADDLE_GLM_ARITHMETIC="float32"
    )
    assert refused.returncode == 2 and "unset it, or take --engine openvino" in refused.stderr


def megabytes_once_loaded(folder: Path) -> float:
    asked = ("--model_dir", folder, *ASK, "--max_new_tokens", 2, "--num_threads", 1, "--benchmark")
    result = run(build() / "paddle_glm_infer", *asked)
    return float(re.search(r"memory once loaded ([\d.]+) MB", result.stderr)[1])


def test_weights_stay_small_in_memory(tiny_rows, tmp_path):
    """61 million weights: 245 MB as floats, 61 and 31 as integers.

    Measured before the first step: Paddle frees a step's float blocks in a thread of its own, which lags
    behind on a busy machine, so that the peak of the steps depends on what else runs.
    """
    texts = [text for row in tiny_rows for text in row.values()]
    sizes = {"vocab_size": 512, "num_layers": 5, "hidden_size": 1024, "ffn_hidden_size": 3072, "seed": 1}
    write_checkpoint(tmp_path / "model", texts, family="chatglm2", **sizes)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    held = {}
    for bits in (0, 8, 4):
        model = AutoModel.from_pretrained(tmp_path / "model", quantization_bit=bits)
        export_model(model, tokenizer, tmp_path / f"int{bits}")
        held[bits] = megabytes_once_loaded(tmp_path / f"int{bits}")
    # Folded to floats when the graph is loaded, they would need more than the float model.
    assert held[8] < held[0] - 150 and held[4] < held[8], held


@pytest.fixture(scope="module")
def with_operators(tiny_rows, tmp_path_factory) -> Path:
    """A folder whose graph needs the native operators. Do not write into it."""
    if kernel_library() is None:
        pytest.skip("no compiler for the kernels: apt-get install g++")
    path = tmp_path_factory.mktemp("operators")
    model, tokenizer = tiny_model(path, "chatglm2", tiny_rows)
    export_model(model.quantize(4), tokenizer, path / "out")
    export_model(model, tokenizer, path / "portable", portable=True)
    return path / "out"


def test_a_portable_graph_answers_the_same_without_the_kernels(with_operators):
    asked = (*ASK, "--max_new_tokens", 8)
    native = run(build() / "paddle_glm_infer", "--model_dir", with_operators, *asked)
    folder = with_operators.parent / "portable"
    portable = run(build() / "paddle_glm_infer", "--model_dir", folder, *asked, PADDLE_GLM_KERNELS=0)
    assert native.returncode == portable.returncode == 0
    assert native.stdout == portable.stdout != ""


def test_missing_kernels_are_refused_in_a_line(with_operators, tmp_path):
    asked = (build() / "paddle_glm_infer", "--model_dir", with_operators, *ASK)
    nowhere = tmp_path / "nowhere.so"
    for result in (
        run(*asked, PADDLE_GLM_KERNELS=0),
        run(*asked, "--kernels", nowhere),
        run(*asked, PADDLE_GLM_KERNELS_LIBRARY=nowhere),
    ):
        assert result.returncode == 2
        [line] = result.stderr.splitlines()
        assert "needs the native CPU kernels" in line and "or export the model again with --portable" in line


def test_kernels_of_another_version_are_refused(with_operators, tmp_path):
    path = shutil.copytree(with_operators, tmp_path / "copy") / "generation_meta.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "operators": 99}), encoding="utf-8")
    result = run(build() / "paddle_glm_infer", "--model_dir", path.parent, *ASK)
    assert result.returncode == 2 and "it needs version 99 of the native CPU kernels" in result.stderr
