"""The commands of docs/checkpoints.md as they stand, and what `convert` and `merge` make of their flags."""

import json
import re
import shlex
from pathlib import Path

import pytest

from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.main import main
from tests.checkpoint.test_reader import assert_equal
from tests.paths import ROOT


def page_commands() -> list[list[str]]:
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "paddle-glm"]


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = page_commands()
    assert len(lines) >= 8
    for words in lines:
        assert main(words) == 0, words
    assert "everything is correct" in capsys.readouterr().out
    start = open_checkpoint("demo/model")
    for name in ("merged", "one"):
        assert_equal(open_checkpoint(f"demo/{name}"), start)
    hub, nlp = open_checkpoint("demo/hub"), open_checkpoint("demo/nlp")
    assert nlp.is_paddlenlp and not hub.is_paddlenlp
    classes = [json.loads(Path(f"demo/{name}/tokenizer_config.json").read_text()) for name in ("nlp", "hub")]
    assert [names["tokenizer_class"] for names in classes] == ["ChatGLMv2Tokenizer", "ChatGLMTokenizer"]
    for name in start.names():
        assert hub.read(name).tobytes() == start.read(name).tobytes()
    assert len(list(Path("demo/one").glob("model-*-of-*.safetensors"))) > 5


def test_aliases_and_formats(tiny_checkpoint: Path, tmp_path: Path) -> None:
    start = ["--model_name_or_path", str(tiny_checkpoint)]
    kinds = {"hub": "*.safetensors", "safetensors": "*.safetensors", "bin": "*.bin"}
    kinds |= {"paddle": "*.pdparams", "pdparams": "*.pdparams"}
    for kind, pattern in kinds.items():
        assert main(["convert", *start, "--output_path", str(tmp_path / kind), "--format", kind]) == 0
        assert list((tmp_path / kind).glob(pattern))
    merged = tmp_path / "shards"
    flags = ["--save_format", "pdparams", "--tensor_parallel_degree", "2"]
    assert main(["merge", *start, "--merge_model_path", str(merged), *flags]) == 0
    assert open_checkpoint(merged).tensor_parallel_degree == 2
    assert (merged / "model_state.tp01.pdparams").is_file()
    assert (merged / "tokenizer.model").is_file()


def test_what_paddlenlp_cannot_load_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(tmp_path / "out")]
    assert main(["convert", *start, "--format", "paddle", "--tensor_parallel_degree", "4"]) == 2
    assert "PaddleNLP cannot load 4 shards of this model: num_key_value_heads is 2" in capsys.readouterr().err
    assert main(["convert", *start, "--format", "bin", "--tensor_parallel_degree", "2"]) == 2
    assert "tensor_parallel_degree 2 as bin" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
