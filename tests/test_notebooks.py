"""The notebooks run from their first cell to their last, and keep what they printed."""

import json
import re

import pytest

from tests import make_notebooks
from tests.pages import parse_own_command, split_commands
from tests.paths import ROOT
from tests.test_readme import known_flags

NAMES = make_notebooks.NAMES
# What makes the work small; nothing else changes.
SMALL = (
    (r"--max_steps \d+", "--max_steps 3"),
    (r"--train_rows \d+", "--train_rows 200"),
    (r"--logging_steps \d+", "--logging_steps 1"),
    (r"--limit \d+", "--limit 2 --tgt_length 4"),
    (r"do_sample=False", "do_sample=False, max_new_tokens=4"),  # untrained models have no end
)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook) -> str:
    return "\n".join(output.get("text", "") for cell in code(notebook) for output in cell.outputs)


def pictures(notebook) -> list[str]:
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def scores(text: str) -> dict[str, float]:
    """ROUGE-L by name, from the table of the finetuning notebook."""
    return {
        name: float(value) for name, value in re.findall(r"^(\w+) +[\d.]+ +([\d.]+) +[\d.]+$", text, re.M)
    }


def check_quickstart(text: str) -> None:
    asked, answer = re.search(r"问： (.*)\n答： (.*)\n", text).groups()
    assert asked.startswith("类型#裤*样式#阔腿裤")
    assert text.partition("8 bits")[0].splitlines().count(answer) == 2  # printed, and streamed
    sizes = re.findall(r"(\d) bits: ([\d.]+) MB -> ([\d.]+) MB", text)
    assert [bits for bits, _, _ in sizes] == ["8", "4"]
    assert float(sizes[0][1]) > float(sizes[0][2]) > float(sizes[1][2])


def check_finetune(notebook) -> None:
    assert len(pictures(notebook)) == 1
    assert list(scores(printed(notebook))) == ["base", "prefix", "lora"]


def check_answers(name: str, notebook) -> None:
    """Of training as long as the notebooks train."""
    text = printed(notebook)
    if name == "quickstart":
        check_quickstart(text)
        assert "阔腿裤" in re.search(r"答： (.*)\n", text)[1]
    else:
        check_finetune(notebook)
        found = scores(text)
        assert found["lora"] > found["prefix"] > found["base"]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_kept_and_say_nothing_of_a_machine(name):
    path = make_notebooks.FOLDER / f"{name}.ipynb"
    notebook = make_notebooks.read(name)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    check_answers(name, notebook)
    assert path.stat().st_size < 100_000
    text = json.dumps([cell.outputs for cell in code(notebook)], ensure_ascii=False)
    assert not re.search(r"stderr|Warning|\\u001b|/(home|root|tmp|usr|work|Users)/|[A-Z]:\\\\", text)
    assert notebook.metadata == make_notebooks.METADATA


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name):
    """Those of cells and of the text, with their flags and our files."""
    met = []
    for cell in make_notebooks.read(name).cells:
        blocks = [cell.source] if cell.source.startswith("%%bash") else []
        blocks += re.findall(r"```bash\n(.*?)```", cell.source, re.DOTALL)
        for words in (words for block in blocks for words in split_commands(block)):
            for word in words:
                assert not word.startswith("configs/") or (ROOT / word).exists(), word
            if (found := parse_own_command(words)) is not None:
                flags = {word for word in found[1] if word.startswith("--")}
                assert flags <= known_flags(found[0]), words
                met.append(found[0])
    assert {"tiny", "finetune"} <= set(met)


def small(name: str):
    notebook = make_notebooks.read(name)
    for cell in code(notebook):
        for pattern, value in SMALL:
            cell.source = re.sub(pattern, value, cell.source)
    return notebook


def test_quickstart_runs(tmp_path):
    notebook = make_notebooks.execute(small("quickstart"), tmp_path)
    check_quickstart(printed(notebook))
    assert "loss 1:" in printed(notebook)


@pytest.mark.slow
def test_finetune_runs(tmp_path):
    check_finetune(make_notebooks.execute(small("finetune"), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_as_they_stand(name, tmp_path):
    check_answers(name, make_notebooks.execute(make_notebooks.read(name), tmp_path))
