"""The goldens are what Python computes now, and C++ computes the same."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from paddle_glm.models.chatglm.tokenizer import ChatGLMTokenizer
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.tiny.grammar import make_rows
from paddle_glm.tiny.tokenizer import train_tokenizer
from tests.cpp.build import build, checked
from tests.golden import make_golden
from tests.paths import data


def approximate(values: Any) -> Any:
    """Probabilities may differ in the last bit between versions of numpy."""
    if isinstance(values, dict):
        return {
            key: pytest.approx(value, abs=1e-14) if key == "probabilities" else approximate(value)
            for key, value in values.items()
        }
    return [approximate(value) for value in values] if isinstance(values, list) else values


@pytest.mark.parametrize(
    "name", ["sampling", "random", "positions", "loop", "beam", "mkl", "response", "rows", "text"]
)
def test_python_computes_the_goldens(name, tmp_path):
    kept = json.loads((make_golden.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    path = make_golden.write(tmp_path / "now.json", make_golden.goldens()[f"{name}.json"])
    assert json.loads(path.read_text(encoding="utf-8")) == approximate(kept)


def test_ctest_computes_the_goldens():
    output = checked("ctest", "--output-on-failure", cwd=build())
    assert "100% tests passed" in output


def replay(folder: Path, tokenizers: dict[str, Any], model: Path) -> None:
    path = make_golden.write(
        folder / "text.json", make_golden.texts(tokenizers, os.path.relpath(model, folder))
    )
    checked(build() / "golden_test", path)


@pytest.mark.parametrize("images", [0, 20000])
def test_chatglm_text(images, tmp_path):
    texts = [text for row in make_rows(60) for text in row.values()]
    model = train_tokenizer(texts, tmp_path / "ice_text.model", 600, ChatGLMTokenizer.sentencepiece)
    replay(tmp_path, {"chatglm": ChatGLMTokenizer(model, {"num_image_tokens": images})}, model)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chatglm-6b/ice_text.model", ChatGLMTokenizer),
        ("chatglm2-6b/tokenizer.model", ChatGLM2Tokenizer),
    ],
)
def test_the_real_tokenizers(name, kind, tmp_path):
    model = data(f"tokenizers/{name}")
    replay(tmp_path, {kind.family: kind(model)}, model)
