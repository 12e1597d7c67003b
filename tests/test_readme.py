"""Commands in the README and the pages: they exist, and so do their flags and the files of ours they name."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_glm.main import Parser, command_names, load_command
from tests.paths import ROOT

PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
TOOLS = {  # what tools/NAME.py runs
    path.name: re.findall(r'main\(\["(\w+)"', path.read_text(encoding="utf-8"))[0]
    for path in (ROOT / "tools").glob("*.py")
}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every shell command in a page's fenced blocks, without comments and continuations."""
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """(command, its arguments) where a line runs one of ours."""
    for place, word in enumerate(words):
        if Path(word).name == "paddle-glm" and place + 1 < len(words):
            return words[place + 1], words[place + 2 :]
        if word.startswith("tools/") and word.endswith(".py"):
            assert Path(word).name in TOOLS, f"{word} does not exist"
            return TOOLS[Path(word).name], words[place + 1 :]
    return None


def known_flags(name: str) -> set[str]:
    command = load_command(name)
    if hasattr(command, "run_argv"):
        from paddle_glm.training.arguments import _known_names

        return {f"--{flag}" for flag in _known_names()}
    parser: argparse.ArgumentParser = Parser()
    command.add_arguments(parser)
    return set(parser._option_string_actions)


LINES = [(page, words) for page in PAGES for words in commands(page)]


def test_pages_hold_commands():
    assert len(LINES) > 10


@pytest.mark.parametrize(("page", "words"), LINES, ids=lambda value: getattr(value, "name", " "))
def test_command_can_be_typed(page, words):
    for word in words:
        if re.fullmatch(r"(tools|configs)/[\w/.-]+", word):
            assert (ROOT / word).exists(), f"{page.name}: {word} does not exist"
    found = ours(words)
    if found is None or not found[0].islower():  # `paddle-glm COMMAND`
        return
    name, arguments = found
    assert name in command_names(), f"{page.name}: {' '.join(words)}"
    flags = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert flags <= known_flags(name) | {"--help"}, f"{page.name}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
