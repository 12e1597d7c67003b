"""What "THUDM/chatglm2-6b" is in the guides: a small model of each family."""

from typing import Any

import pytest

from paddle_glm import AutoModel, AutoTokenizer
from paddle_glm.models.base import CausalLM
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tokenizers import Tokenizer

FAMILIES = ("chatglm", "chatglm2", "chatglm3")
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tiny_rows: list, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What "THUDM/chatglm2-6b" is in the guides."""
    path = tmp_path_factory.mktemp("snippets") / request.param
    texts = [text for row in tiny_rows for text in row.values()]
    sizes = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96}
    write_checkpoint(path, texts, request.param, vocab_size=512, **sizes)
    return str(path)


@pytest.fixture(scope="session")
def tokenizer(folder: str) -> Tokenizer:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def model(folder: str) -> CausalLM:
    return AutoModel.from_pretrained(folder, dtype="float32")
