"""The commands on the README and the pages: their words, what they write, how to run them on small models.

Flags behind a command win over those before it, so what is appended only makes the work small.
"""

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from paddle_glm.main import main
from tests.paths import ROOT

PAGES = sorted(
    [
        *ROOT.glob("README*.md"),
        *ROOT.glob("CONTRIBUTING.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("docs/*.md"),
    ]
)
TOOLS = {  # what tools/NAME.py runs
    path.name: re.findall(r'main\(\["(\w+)"', path.read_text(encoding="utf-8"))[0]
    for path in (ROOT / "tools").glob("*.py")
}
QUICKSTART = "quickstart"  # what `parse_own_command` calls tools/quickstart.sh
SHORT_LENGTHS = "--src_length 32 --tgt_length 8"
TRAIN = "--max_steps 2 --logging_steps 1 --save_steps 2 --gradient_accumulation_steps 1"
SMALL_FLAGS = {
    "tiny": "--train_rows 90 --dev_rows 6",
    "finetune": f"{TRAIN} --eval_steps 2 {SHORT_LENGTHS} --per_device_train_batch_size 2 "
    "--do_generation False",
    "ptuning": f"{TRAIN} --pre_seq_len 8 --max_source_length 32 --max_target_length 8",
    "predict": SHORT_LENGTHS,
    "evaluate": f"{SHORT_LENGTHS} --limit 4",
    "infer": SHORT_LENGTHS,
    "chat": "--max_new_tokens 4",
    "quantize": "",
    "doctor": "--only environment",
}
# `ptuning --do_predict` takes no flags of training, and finds what the two steps above have left.
PREDICT_FLAGS = (
    "--max_source_length 32 --max_target_length 8 --pre_seq_len 8 --ptuning_checkpoint {}/checkpoint-2"
)
# What a command writes; `tiny` writes the folder that all pages start from.
OUTPUT_FLAGS = ("--output_dir", "--output_path", "--merge_model_path", "--predict_file", "--output_file")
# Those that replace a folder only where they are told to.
OVERWRITING_COMMANDS = ("convert", "merge", "merge-lora", "quantize", "export")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def split_commands(block: str) -> Iterator[list[str]]:
    """The words of every line of a shell's block, without comments and continuations."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every shell command in a page's fenced blocks."""
    for block in blocks(page, "(?:bash|sh|shell)"):
        yield from split_commands(block)


def parse_own_command(words: list[str]) -> tuple[str, list[str]] | None:
    """(command, its arguments) where a line runs one of ours."""
    for place, word in enumerate(words):
        if Path(word).name == "paddle-glm" and place + 1 < len(words):
            return words[place + 1], words[place + 2 :]
        if word.startswith("tools/") and word.endswith(".py"):
            assert Path(word).name in TOOLS, f"{word} does not exist"
            return TOOLS[Path(word).name], words[place + 1 :]
        if word == "tools/quickstart.sh":
            return QUICKSTART, words[place + 1 :]
    return None


def output_paths(words: list[str]) -> list[str]:
    """The files and folders that one of our commands writes, also those that its YAML file names."""
    name, arguments = parse_own_command(words) or ("", [])
    found = [arguments[place + 1] for place, word in enumerate(arguments) if word in OUTPUT_FLAGS]
    if not found and arguments and arguments[0].endswith(".yaml"):
        found = [yaml.safe_load((ROOT / arguments[0]).read_text(encoding="utf-8"))["output_dir"]]
    if name == "export":  # the last part may be the graph's name
        found = [path.removesuffix("/chatglm") for path in found]
    return [] if name in ("", "tiny", QUICKSTART) else found


def with_small_sizes(words: list[str]) -> list[str]:
    """One of our commands with flags behind it that make its work small."""
    found = parse_own_command(words)
    assert found is not None, f"{' '.join(words)} runs none of our commands"
    extra = SMALL_FLAGS.get(found[0], "")
    if found[0] == "ptuning" and "--do_predict" in words:
        extra = PREDICT_FLAGS.format(words[words.index("--output_dir") + 1])
    return [*words, *extra.split()]


def is_runnable_here(words: list[str]) -> bool:
    """Whether a command ends by itself, needs no network, and no program but Python."""
    name, arguments = parse_own_command(words) or ("", [])
    waits = name in ("serve", "web", QUICKSTART) or "--api_base" in arguments
    return name.islower() and not waits


def run(words: list[str], monkeypatch) -> None:
    """Run a page's command on small models, in the current folder; processes stand for GPUs."""
    if "paddle.distributed.launch" in words:
        launch(words)
        return
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\nstop\n"))
    name, arguments = parse_own_command(with_small_sizes(words)) or ("", [])
    arguments = shlex.split(shlex.join(arguments).replace("--device gpu", ""))
    assert main([name, *arguments]) == 0, words


def launch(words: list[str]) -> None:
    text = shlex.join(with_small_sizes(words)).replace("--device gpu", "")
    text = re.sub(r"--gpus ([\d,]+)", lambda found: f"--nproc_per_node {len(found[1].split(','))}", text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *shlex.split(text)[1:]], env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
