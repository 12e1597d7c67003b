"""A resumed run equals the uninterrupted one in every bit, and a killed save costs only itself."""

import dataclasses
import shutil
import signal
import subprocess
import sys

import pytest

from paddle_glm.checkpoint import is_complete
from paddle_glm.config import ModelConfig
from tests.paths import ROOT
from tests.training.finetune_helpers import finetune, losses, read_log, resumable_files, write_rows

FLAGS = """
    --do_train --do_eval --src_length 24 --tgt_length 16 --per_device_train_batch_size 4 --learning_rate 3e-3
    --gradient_accumulation_steps 2 --max_steps 9 --logging_steps 1 --eval_steps 4 --save_steps 1
    --warmup_steps 3 --lr_scheduler_type cosine --recompute True --disable_tqdm True --report_to none
"""

KILLED = """
import os, signal, sys
from paddle_glm.training import optimizer_files
write = optimizer_files.write_safetensors

def stop_in_the_middle(path, tensors):
    if "checkpoint-5" in str(path):
        path.write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, tensors)

optimizer_files.write_safetensors = stop_in_the_middle
from paddle_glm.main import main
main(["finetune", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def model(tiny_checkpoint, tmp_path_factory):
    """The tiny model with dropout, so that the random state matters."""
    folder = tmp_path_factory.mktemp("dropout") / "model"
    shutil.copytree(tiny_checkpoint, folder)
    config = ModelConfig.from_pretrained(folder)
    dataclasses.replace(config, hidden_dropout=0.2, attention_dropout=0.1).save_pretrained(folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture(scope="module")
def words(model, tiny_rows, tmp_path_factory):
    # 34 rows are 4 steps of 8 rows and a batch that fills none.
    data = write_rows(tmp_path_factory.mktemp("rows"), tiny_rows[:40])
    return ["--model_name_or_path", str(model), "--task_name_or_path", str(data)]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """The uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert finetune(FLAGS, *words, "--output_dir", out) == 0
    return out


# 3: within an epoch; 4: between two; 6: in the second.
@pytest.mark.parametrize("step", [3, 4, 6])
def test_every_bit_is_the_same(words, whole, tmp_path, step):
    shutil.copytree(whole / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    shutil.copy(whole / "train_log.jsonl", tmp_path)
    assert finetune(FLAGS, *words, "--output_dir", tmp_path) == 0
    assert resumable_files(tmp_path / "checkpoint-9") == resumable_files(whole / "checkpoint-9")
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert losses(tmp_path) == losses(whole)
    assert [line["step"] for line in read_log(tmp_path)] == [line["step"] for line in read_log(whole)]


def test_incomplete_folders_are_passed_over(words, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-7", tmp_path / "checkpoint-7")
    shutil.copytree(whole / "checkpoint-8", tmp_path / "checkpoint-8")
    (tmp_path / "checkpoint-8" / "manifest.json").unlink()
    assert finetune(FLAGS, *words, "--output_dir", tmp_path, "--resume_from_checkpoint", "True") == 0
    assert len(losses(tmp_path)) == 2
    assert resumable_files(tmp_path / "checkpoint-9") == resumable_files(whole / "checkpoint-9")


def test_a_damaged_optimizer_file_is_an_error(words, whole, tmp_path, capfd):
    folder = tmp_path / "checkpoint-7"
    shutil.copytree(whole / "checkpoint-7", folder)
    file = folder / "optimizer-tp00-of-01.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    assert finetune(FLAGS, *words, "--output_dir", tmp_path, "--resume_from_checkpoint", folder) == 2
    assert "no complete checkpoint" in capfd.readouterr().err


def test_a_finished_run_is_left_alone(words, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-9", tmp_path / "checkpoint-9")
    assert finetune(FLAGS, *words, "--output_dir", tmp_path) == 0
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (tmp_path / "checkpoint-10").exists()


def test_overwriting_starts_anew(words, whole, tmp_path):
    shutil.copytree(whole / "checkpoint-9", tmp_path / "checkpoint-9")
    assert finetune(FLAGS, *words, "--output_dir", tmp_path, "--max_steps", 2, "--overwrite_output_dir") == 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert len(losses(tmp_path)) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gradient_accumulation_steps 3", "give --gradient_accumulation_steps 2"),
        ("--per_device_train_batch_size 3", "= 8"),
        ("--per_device_train_batch_size 8 --gradient_accumulation_steps 1", "4 optimizer steps per epoch"),
        ("--group_by_length", "without --group_by_length"),
    ],
)
def test_another_order_of_rows_is_an_error(words, whole, tmp_path, capfd, flags, message):
    shutil.copytree(whole / "checkpoint-7", tmp_path / "checkpoint-7")
    assert finetune(f"{FLAGS} {flags}", *words, "--output_dir", tmp_path) == 2
    assert message in capfd.readouterr().err


def test_a_killed_save_leaves_the_one_before(words, whole, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *FLAGS.split(), *words, "--output_dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        timeout=600,
    )
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".checkpoint-5*"))  # what the kill left behind
    assert not (tmp_path / "checkpoint-5").exists() and is_complete(tmp_path / "checkpoint-4")
    assert finetune(FLAGS, *words, "--output_dir", tmp_path) == 0
    assert resumable_files(tmp_path / "checkpoint-9") == resumable_files(whole / "checkpoint-9")
    assert not list(tmp_path.glob(".checkpoint-5*"))
