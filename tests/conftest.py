"""What many tests start from: a few rows and a very small model, made here."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import Row, make_rows


@pytest.fixture(autouse=True)
def reset_num_threads() -> Iterator[None]:
    """Each test begins with the threads that a process of its own would have: bits depend on their number."""
    yield
    if (paddle := sys.modules.get("paddle")) is not None:
        paddle.base.core.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


@pytest.fixture(scope="session")
def tiny_rows() -> list[Row]:
    """60 rows with `content` and `summary`."""
    return make_rows(60)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChatGLM2 folder: 2 layers, hidden size 64, 4 heads in 2 groups, 520 words. Do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "chatglm2"
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(folder, texts, vocab_size=512, num_layers=2, hidden_size=64, ffn_hidden_size=96)
    return folder
