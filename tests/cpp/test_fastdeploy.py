"""The engine on FastDeploy itself: FASTDEPLOY_INSTALL_DIR names what tools/build_fastdeploy.sh built."""

import os

import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.export import export_model
from tests.cpp.build import build
from tests.cpp.test_infer import Exported, python_ids, rows_of, tiny_model

SDK = os.environ.get("FASTDEPLOY_INSTALL_DIR")
KINDS = {"float32": {}, "int8": {"bits": 8}, "int4": {"bits": 4, "group_size": 16, "embeddings": True}}


@pytest.mark.skipif(
    not SDK, reason="FASTDEPLOY_INSTALL_DIR is not set: bash tools/build_fastdeploy.sh --help"
)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_paddle(kind, tiny_rows, tmp_path, monkeypatch):
    """Weights are in a file of their own, which is found from any working directory."""
    built = build("cpp-fastdeploy", f"-DFASTDEPLOY_INSTALL_DIR={SDK}", "-DPADDLE_GLM_TESTS=OFF")
    monkeypatch.setattr("tests.cpp.test_infer.build", lambda: built)
    model, tokenizer = tiny_model(tmp_path, "chatglm2", tiny_rows)
    if KINDS[kind]:
        model.quantize(**KINDS[kind])
    export_model(model, tokenizer, tmp_path / "paddle")
    export_model(model, tokenizer, tmp_path / "out", format="onnx")
    exported = Exported(tmp_path / "out", open_backend("paddle", tmp_path / "paddle"), tokenizer)
    expected = python_ids(exported, 3, do_sample=False)
    for backend in ("onnx_runtime", "openvino"):
        flags = ("--engine", "fastdeploy", "--backend", backend)
        assert [row["ids"] for row in rows_of(exported, tmp_path, "--batch_size", 3, *flags)] == expected
