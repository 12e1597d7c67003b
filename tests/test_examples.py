"""Every program in examples/ runs on a small model and does what its page says."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from paddle_glm import AutoModel, AutoTokenizer
from paddle_glm.checkpoint import is_complete
from tests.paths import ROOT

EXAMPLES = ROOT / "examples"
GREEDY = {"max_new_tokens": 64, "do_sample": False}
PROMPT = "类型#裙*颜色#白色*风格#简约"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path):
    """Runs an example as a program; returns what it prints."""

    def run_example(name: str, *arguments: object) -> str:
        words = [name, "--model", str(tiny_checkpoint), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


@pytest.fixture
def data_file(tiny_rows, tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in tiny_rows[:10]))
    return path


def answer(folder: Path, question: str = PROMPT, **keywords: object) -> str:
    model = AutoModel.from_pretrained(folder, **keywords)
    return model.chat(AutoTokenizer.from_pretrained(folder), question, **GREEDY)[0]


def test_finetune_lora(run, tiny_checkpoint, data_file, tmp_path):
    out = tmp_path / "lora"
    text = run("finetune_lora.py", "--data_file", data_file, "--output_dir", out, "--steps", 20)
    first, _, last = map(float, re.findall(r"^step \d+: loss (.*)$", text, re.MULTILINE))
    assert last < first - 0.1
    assert is_complete(out) and (out / "adapter_model.safetensors").is_file()
    tuned = answer(tiny_checkpoint, lora_path=out)
    assert text.endswith(f"\n{tuned}\n") and tuned != answer(tiny_checkpoint)


def test_batch_inference(run, tiny_checkpoint, tiny_rows, data_file, tmp_path):
    out = tmp_path / "answers.json"
    run("batch_inference.py", "--data_file", data_file, "--output_file", out, "--batch_size", 4)
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    expected = [
        {"prompt": row["content"], "answer": answer(tiny_checkpoint, row["content"])}
        for row in tiny_rows[:10]
    ]
    assert answers == expected


@pytest.mark.parametrize(("bits", "share"), [(8, 0.7), (4, 0.65)])
def test_quantize(run, tiny_checkpoint, tmp_path, bits, share):
    out = tmp_path / "quantized"
    text = run("quantize.py", "--bits", bits, "--output_dir", out)
    before, after = map(float, re.findall(r"([\d.]+) MB", text))
    assert after < share * before
    response = answer(out)
    assert text.endswith(f"\n{response}\n") and response == answer(tiny_checkpoint, quantization_bit=bits)


def test_own_backend(run, tiny_checkpoint):
    """Without a cache, the text is the one that the cached model gives."""
    assert run("own_backend.py", "--prompt", PROMPT) == answer(tiny_checkpoint) + "\n"


def test_every_example_is_on_the_page_and_tested():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert (
        names
        == set(re.findall(r"\]\((\w+\.py)\)", page))
        == set(re.findall(r"python examples/(\w+\.py)", page))
    )
    assert names <= set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
