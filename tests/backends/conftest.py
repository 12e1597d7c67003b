"""Models of every family, exported in both formats, for all tests of backends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from paddle_glm.auto.backend import backends_for, open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends import Backend
from paddle_glm.chat_template import render
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import Row
from tests.backends import fastdeploy_standin

QUESTIONS = ("类型#裤*版型#宽松", "你好", "类型#上衣*颜色#白色*风格#简约*图案#条纹")
INT8 = {"quantization_bit": 8}
INT4 = {"quantization_bit": 4, "quantization_group_size": 16, "quantization_embeddings": True}
# Name -> family, what is put beside the model, how the model is read.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "chatglm": ("chatglm", "", {}),
    "chatglm2": ("chatglm2", "", {}),
    "chatglm3": ("chatglm3", "", {}),
    "chatglm-prefix": ("chatglm", "prefix", {}),
    "chatglm2-prefix": ("chatglm2", "prefix", {}),
    "chatglm2-float16": ("chatglm2", "", {"dtype": "float16"}),
    "chatglm-int8": ("chatglm", "", INT8),
    "chatglm2-int4-lora": ("chatglm2", "lora", INT4),
}


def attach_adapter(model: CausalLM, what: str) -> None:
    """A prefix of 4, or adapters that change what the model computes."""
    if what == "prefix":
        attach_prefix(model, 4, projection=False)
    if what == "lora":
        attach_lora(model, LoraConfig(rank=4, alpha=8.0))
        random = np.random.default_rng(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.set_value(0.1 * random.standard_normal(parameter.shape, np.float32))


@dataclass(frozen=True)
class Case:
    """A model, the folder of its ONNX graph, its Paddle graph, and prompts of three lengths."""

    model: CausalLM
    onnx: Path
    paddle: Backend
    prompts: list[list[int]]
    tokens: dict[str, list] = field(default_factory=dict)

    def expected(self, params: GenerationParams, prompts: list[list[int]]) -> list[list[int]]:
        """What the model answers, after seeing that its Paddle graph answers the same."""
        key = repr((params, prompts))
        if key not in self.tokens:
            self.tokens[key] = generate_batch(DygraphBackend(self.model), prompts, params)
            assert self.tokens[key] == generate_batch(self.paddle, prompts, params)
        return self.tokens[key]


@pytest.fixture(scope="session")
def checkpoints(
    tiny_checkpoint: Path, tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A model folder of every family by its name."""
    texts = [text for row in tiny_rows for text in row.values()]
    folders = {"chatglm2": tiny_checkpoint}
    for family in ("chatglm", "chatglm3"):
        folders[family] = tmp_path_factory.mktemp("families") / family
        sizes = {"vocab_size": 512, "hidden_size": 64, "ffn_hidden_size": 96}
        write_checkpoint(folders[family], texts, family=family, **sizes)
    return folders


@pytest.fixture(scope="session")
def make_case(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Case]:
    """Export each of `CASES` when it is first asked for, once."""

    @cache
    def make(name: str) -> Case:
        family, adapter, load_options = CASES[name]
        model = AutoModel.from_pretrained(checkpoints[family], **load_options)
        attach_adapter(model, adapter)
        tokenizer = AutoTokenizer.from_pretrained(checkpoints[family])
        folder = tmp_path_factory.mktemp("exported") / name
        for kind in ("onnx", "paddle"):
            export_model(model, tokenizer, folder / kind, format=kind)
        messages = [[{"role": "user", "content": text}] for text in QUESTIONS]
        prompts = [render(tokenizer.template, tokenizer, one).input_ids for one in messages]
        graph = open_backend("paddle", folder / "paddle", cpu_threads=1)
        return Case(model, folder / "onnx", graph, prompts)

    return make


@pytest.fixture(scope="session")
def make_engine(make_case: Callable[[str], Case]) -> Callable[[str, str], Backend]:
    """Open each backend over each case once; a prompt resets it. backend: NAME, or fastdeploy-ENGINE."""

    @cache
    def make(backend: str, name: str) -> Backend:
        backend, _, engine = backend.partition("-")
        options = {"fastdeploy_engine": engine} if engine else {}
        with pytest.MonkeyPatch.context() as patch:
            fastdeploy_standin.install(patch, fastdeploy_standin.real_module())
            return open_backend(backend, make_case(name).onnx, cpu_threads=1, **options)

    return make


@pytest.fixture(params=CASES)
def case_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(case_name: str, make_case: Callable[[str], Case]) -> Case:
    return make_case(case_name)


@pytest.fixture(params=[*backends_for("onnx"), *(["fastdeploy-openvino"] if fastdeploy_standin.REAL else [])])
def engine(
    request: pytest.FixtureRequest, case_name: str, make_engine: Callable[[str, str], Backend]
) -> Backend:
    """Every backend that reads ONNX, over every case."""
    return make_engine(request.param, case_name)


@pytest.fixture(scope="session")
def onnx_folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an ONNX folder. Do not write into it."""
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    export_model(AutoModel.from_pretrained(tiny_checkpoint), tokenizer, folder, format="onnx")
    return folder


@pytest.fixture
def fastdeploy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in that `import fastdeploy` finds."""
    return fastdeploy_standin.install(monkeypatch)
