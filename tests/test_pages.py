"""Pages can be followed in any order, and their commands typed again."""

import random
import shutil
from pathlib import Path

import pytest

from tests.pages import (
    OVERWRITING_COMMANDS,
    PAGES,
    blocks,
    commands,
    is_runnable_here,
    output_paths,
    parse_own_command,
    run,
)
from tests.paths import ROOT
from tests.training.finetune_helpers import losses, write_rows

ENGLISH = [page for page in PAGES if page.name != "README_zh.md"]


def test_pages_write_folders_of_their_own():
    """No page writes what another one writes, nor into it."""
    written = [
        (Path(path), page.name)
        for page in ENGLISH
        for words in commands(page)
        for path in output_paths(words)
    ]
    assert len(written) > 20
    for path, page in written:
        others = [one for one, other in written if other != page and (one == path or one in path.parents)]
        assert not others, f"{page} writes {path}, and so does another page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_replace_folders_say_so(page):
    for words in commands(page):
        name, arguments = parse_own_command(words) or ("", [])
        if name in OVERWRITING_COMMANDS and output_paths(words):
            assert "--overwrite" in arguments, f"{page.name}: {' '.join(words)} fails when it is typed again"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_folders_that_are_read_have_been_written(page):
    """By the same page: `demo` comes from `tiny`, and everything else that is no download from a command."""
    there = {"AdvertiseGen", "chatglm2-6b", "chatglm3-6b", "THUDM/chatglm2-6b"}
    for words in commands(page):
        name, arguments = parse_own_command(words) or ("", [])
        if name == "tiny":
            there.add(arguments[arguments.index("--output_dir") + 1])
        for place, word in enumerate(arguments):
            if word in (
                "--model_name_or_path",
                "--model_path",
                "--lora_path",
                "--ptuning_checkpoint",
                "--data_file",
            ):
                path = Path(arguments[place + 1])
                assert any(str(one) in there for one in (path, *path.parents)), (
                    f"{page.name}: where is {path} from?"
                )
        there |= set(output_paths(words))


@pytest.fixture
def workplace(tiny_checkpoint, tiny_rows, tmp_path, monkeypatch) -> Path:
    """A folder in which the pages' relative paths lead somewhere."""
    for name in ("tools", "configs", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("chatglm2-6b", "chatglm3-6b", "THUDM/chatglm2-6b"):
        shutil.copytree(tiny_checkpoint, tmp_path / name)
    write_rows(tmp_path / "AdvertiseGen", tiny_rows[:24], dev=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_finetuning_page_runs_as_it_stands(workplace, monkeypatch):
    """But for what it starts over several processes, which the slow test below starts too."""
    page = ROOT / "docs" / "finetuning.md"
    for words in commands(page):
        if is_runnable_here(words) and "paddle.distributed.launch" not in words:
            run(words, monkeypatch)
    for folder in ("sft", "prefix", "lora", "prefix_int8", "lora_int4"):
        assert len(losses(workplace / "demo" / folder)) == 2
    for code in blocks(page, "python"):
        exec(code, {})


@pytest.mark.slow
def test_all_pages_run_twice_in_another_order(workplace, monkeypatch):
    for seed in (1, 2):
        pages = random.Random(seed).sample(ENGLISH, len(ENGLISH))
        for page in pages:
            for words in commands(page):
                if is_runnable_here(words):
                    print(seed, page.name, *words)
                    run(words, monkeypatch)
            for code in blocks(page, "python"):
                if "demo/" in code:
                    exec(code, {})
