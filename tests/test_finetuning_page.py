"""Every command on docs/finetuning.md runs, in the page's order and in one folder, on small models.

Flags behind a command win over those before it, so what is appended here only makes the work small.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_glm.main import main
from tests.paths import ROOT
from tests.test_readme import blocks, ours
from tests.training.runs import losses, write_rows

PAGE = ROOT / "docs" / "finetuning.md"
SHORT = "--src_length 32 --tgt_length 8"
TRAIN = "--max_steps 2 --logging_steps 1 --save_steps 2 --gradient_accumulation_steps 1"
SMALL = {
    "tiny": "--train_rows 90 --dev_rows 6",
    "finetune": f"{TRAIN} {SHORT} --eval_steps 2 --per_device_train_batch_size 2 --do_generation False",
    "ptuning": f"{TRAIN} --pre_seq_len 8 --max_source_length 32 --max_target_length 8",
    "predict": SHORT,
    "evaluate": f"{SHORT} --limit 4",
}
# `ptuning --do_predict` takes no flags of training, and finds what the two steps above have left.
PREDICTING = (
    "--max_source_length 32 --max_target_length 8 --pre_seq_len 8 --ptuning_checkpoint {}/checkpoint-2"
)


def lines() -> Iterator[list[str]]:
    """The words of every command on the page, as they would be typed."""
    for block in blocks(PAGE, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def small(words: list[str]) -> list[str]:
    """The command with flags behind it that make its work small."""
    found = ours(words)
    assert found is not None, f"{' '.join(words)} runs none of our commands"
    extra = SMALL.get(found[0], "")
    if found[0] == "ptuning" and "--do_predict" in words:
        extra = PREDICTING.format(words[words.index("--output_dir") + 1])
    return [*words, *extra.split()]


@pytest.fixture
def workplace(tiny_checkpoint, tiny_rows, tmp_path, monkeypatch) -> Path:
    """A folder in which the page's relative paths lead somewhere."""
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("chatglm2-6b", "THUDM/chatglm2-6b"):
        shutil.copytree(tiny_checkpoint, tmp_path / name)
    write_rows(tmp_path / "AdvertiseGen", tiny_rows[:24], dev=4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_one_process_run(workplace, capfd):
    ran = []
    for words in lines():
        if "paddle.distributed.launch" in words:
            continue
        command, arguments = ours(small(words)) or ("", [])
        code = main([command, *arguments])
        assert code == 0, (words, capfd.readouterr().err[-3000:])
        ran.append(command)
    assert {"tiny", "finetune", "ptuning", "quantize", "predict", "evaluate", "export", "merge-lora"} <= set(
        ran
    )
    for folder in ("sft", "prefix", "lora", "prefix_int8", "lora_int4"):
        assert len(losses(workplace / "demo" / folder)) == 2
    for code in blocks(PAGE, "python"):
        exec(code, {})


@pytest.mark.slow
def test_commands_of_several_processes_run(workplace):
    assert main(["tiny", "--output_dir", "demo", *SMALL["tiny"].split()]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launched = [words for words in lines() if "paddle.distributed.launch" in words]
    assert len(launched) >= 2
    for words in launched:
        text = shlex.join(small(words)).replace("--device gpu", "")
        text = re.sub(r"--gpus ([\d,]+)", lambda found: f"--nproc_per_node {len(found[1].split(','))}", text)
        done = subprocess.run(
            [sys.executable, *shlex.split(text)[1:]],
            cwd=workplace,
            env=environment,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
