"""Commands in the README and the pages: they exist, and so do their flags and the files of ours they name."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_glm.commands._hub_arguments import add_hub_arguments
from paddle_glm.main import Parser, command_names, load_command
from tests.pages import PAGES, QUICKSTART, blocks, commands, parse_own_command
from tests.paths import ROOT
from tools.quickstart import cli as quickstart


def known_flags(name: str) -> set[str]:
    if name == QUICKSTART:
        parser = Parser()
        quickstart.add_arguments(parser)
        return set(parser._option_string_actions)
    command = load_command(name)
    if hasattr(command, "run_argv"):
        from paddle_glm.training.command_line import known_flag_names
        from paddle_glm.training.thudm_flags import INEFFECTIVE_FLAGS

        own = command._parser()._option_string_actions if hasattr(command, "_parser") else ()
        return {*own, *(f"--{flag}" for flag in (*known_flag_names(), *INEFFECTIVE_FLAGS))}
    parser = Parser()
    command.add_arguments(parser)
    if parser.has_model_argument():
        add_hub_arguments(parser)
    return set(parser._option_string_actions)


LINES = [(page, words) for page in PAGES for words in commands(page)]


def test_pages_hold_commands():
    assert len(LINES) > 10


@pytest.mark.parametrize(("page", "words"), LINES, ids=lambda value: getattr(value, "name", " "))
def test_command_can_be_typed(page, words):
    for word in words:
        if re.fullmatch(r"(tools|configs)/[\w/.-]+", word):
            assert (ROOT / word).exists(), f"{page.name}: {word} does not exist"
    found = parse_own_command(words)
    if found is None or not found[0].islower():  # `paddle-glm COMMAND`
        return
    name, arguments = found
    assert name in (*command_names(), QUICKSTART), f"{page.name}: {' '.join(words)}"
    flags = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert flags <= known_flags(name) | {"--help"}, f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# What a small model on a CPU needs besides the flags of the README's block.
SMALL = (
    *("--max_steps", "2", "--gradient_accumulation_steps", "1", "--do_generation", "False"),
    *("--src_length", "32", "--tgt_length", "16"),
)


def test_the_chinese_page_holds_the_same_commands():
    assert list(commands(ROOT / "README.md")) == list(commands(ROOT / "README_zh.md"))


@pytest.mark.integration
def test_the_block_for_the_real_model_runs(tiny_checkpoint, tiny_rows, tmp_path, monkeypatch):
    """As it stands, in one folder, line after line; the model is small and four processes stand for GPUs."""
    (tmp_path / "chatglm2-6b").symlink_to(tiny_checkpoint)
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_rows(tmp_path / "AdvertiseGen", tiny_rows)
    page = ROOT / "README.md"
    [block] = [block for block in blocks(page, "bash") if "AdvertiseGen/dev.json" in block]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[:2] == ["paddle-glm", "chat"]:  # it waits for someone to type
            continue
        text = shlex.join(words).replace("--gpus 0,1,2,3", "--nproc_per_node 4").replace("--device gpu", "")
        words = shlex.split(text)
        if words[0] == "python":
            words = [sys.executable, *words[1:], *SMALL]
        else:
            words = [sys.executable, "-m", "paddle_glm.main", *words[1:]]
        if words[3] in ("evaluate", "infer"):
            words += ["--src_length", "32", "--tgt_length", "8"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
        ran.append(words[3])
    assert ran == ["--nproc_per_node", "merge", "evaluate", "export", "infer"]
    monkeypatch.chdir(tmp_path)
    [code] = [code for code in blocks(page, "python") if "model.chat" in code]
    names: dict = {}
    exec(code.replace("history=[])", "history=[], max_new_tokens=4)"), names)
    assert names["history"] == [("你好", names["response"])]


def write_rows(folder: Path, rows: list) -> None:
    folder.mkdir()
    for name, part in (("train.json", rows[:40]), ("dev.json", rows[40:48])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (folder / name).write_text("".join(lines), encoding="utf-8")
