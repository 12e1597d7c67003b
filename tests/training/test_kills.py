"""Training that is killed while it saves ends where it would have ended, and resuming unpickles nothing."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddle_glm.checkpoint import is_complete, latest_complete
from paddle_glm.tiny.grammar import Row
from paddle_glm.training.output_dir import list_checkpoints
from tests.paths import ROOT
from tests.training.finetune_helpers import finetune, losses, resumable_files, write_rows

KILLS = 30
STEPS = 48
FLAGS = f"""
    --do_train --src_length 24 --tgt_length 16 --per_device_train_batch_size 4 --learning_rate 3e-3
    --gradient_accumulation_steps 2 --max_steps {STEPS} --logging_steps 1 --save_steps 1 --save_total_limit 3
    --warmup_steps 3 --lr_scheduler_type cosine --disable_tqdm True --report_to none
"""


@pytest.fixture(scope="module")
def words(tiny_checkpoint: Path, tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = write_rows(tmp_path_factory.mktemp("rows"), tiny_rows[:40])
    return ["--model_name_or_path", str(tiny_checkpoint), "--task_name_or_path", str(data)]


def saving(out: Path) -> set[str]:
    return {path.name for path in out.glob(".*.incomplete")}


def wait_for_saves(process: subprocess.Popen, out: Path, count: int) -> None:
    """Return when the `count`-th save since the start has begun, or the process has ended."""
    seen = saving(out)
    while process.poll() is None:
        now = saving(out)
        if now - seen:
            count -= 1
            if not count:
                return
        seen = now
        time.sleep(0.0005)


@pytest.mark.slow
def test_killed_in_saves_thirty_times(words: list[str], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert finetune(FLAGS, *words, "--output_dir", whole) == 0
    command = [sys.executable, "-m", "paddle_glm.main", "finetune", *FLAGS.split(), *words]
    rng = random.Random(0)
    inside, began = 0, 0
    while inside < KILLS:
        began += 1
        assert began < 4 * KILLS, f"only {inside} of {began} kills hit a save"
        process = subprocess.Popen(
            [*command, "--output_dir", str(out)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_saves(process, out, rng.choice((1, 1, 2)))
        time.sleep(rng.uniform(0, 0.06))
        process.kill()
        process.wait()
        inside += bool(saving(out))
        newest = latest_complete(out)
        if newest is not None and int(newest.name.split("-")[1]) >= STEPS - 2:
            shutil.rmtree(out)  # the run came near its end: begin another
    done = subprocess.run([*command, "--output_dir", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(f"{inside} kills inside saves of {began}")
    last = f"checkpoint-{STEPS}"
    assert resumable_files(out / last) == resumable_files(whole / last)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert is_complete(out) and not saving(out)


@pytest.mark.slow
def test_killed_while_it_replaces_an_earlier_run(words: list[str], tmp_path: Path) -> None:
    """Either the earlier run is whole, or the new one has a complete checkpoint and is the one to resume."""
    earlier = tmp_path / "earlier"
    assert finetune(FLAGS.replace(str(STEPS), "3"), *words, "--output_dir", earlier) == 0
    before = {f"checkpoint-{step}": resumable_files(earlier / f"checkpoint-{step}") for step in (1, 2, 3)}
    flags = FLAGS.replace(str(STEPS), "2").split()
    command = [sys.executable, "-m", "paddle_glm.main", "finetune", *flags, *words, "--overwrite_output_dir"]
    rng = random.Random(1)
    ends = {"earlier": 0, "new": 0}
    for number in range(KILLS // 3):
        out = tmp_path / f"{number}"
        shutil.copytree(earlier, out)
        process = subprocess.Popen(
            [*command, "--output_dir", str(out)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_saves(process, out, rng.choice((1, 2)))
        time.sleep(rng.uniform(0, 0.06))
        process.kill()
        process.wait()
        found = list_checkpoints(out)
        if found[-1].run_number == 1:
            ends["earlier"] += 1
            assert {name: resumable_files(out / name) for name in before} == before
        else:
            ends["new"] += 1
            assert all(
                resumable_files(saved.folder) == before[saved.folder.name]
                for saved in found
                if saved.run_number == 1
            )
        number_of_run = found[-1].run_number
        assert finetune(FLAGS.replace(str(STEPS), "4"), *words, "--output_dir", out) == 0
        assert list_checkpoints(out)[-1].run_number == number_of_run and len(losses(out)) == 4
        assert is_complete(out) and not saving(out)
    print(ends)


WATCHED = """
import sys
from paddle_glm.main import main
import paddle, paddlenlp.trainer  # what they unpickle while they are imported is theirs

def no_load(*arguments, **named):
    raise SystemExit(f"paddle.load of {arguments}")

paddle.load = paddle.framework.io.load = no_load
found = []

def hook(event, arguments):
    if event == "pickle.find_class":
        found.append(arguments)

sys.addaudithook(hook)
import paddle_glm.parallel.shutdown as leaving
leaving.exit_all_ranks = lambda code: None
code = main(["finetune", *sys.argv[1:]])
print("exit code", code, "unpickled", found)
"""


def test_resuming_unpickles_nothing(words: list[str], tmp_path: Path) -> None:
    """A checkpoint's folder holds bait that PaddleNLP's own Trainer would load."""
    out = tmp_path / "out"
    flags = FLAGS.replace(str(STEPS), "2")
    assert finetune(flags, *words, "--output_dir", out) == 0
    for name in (
        "optimizer.pdopt",
        "scheduler.pdparams",
        "training_args.bin",
        "rng_state.pth",
        "scaler.pdparams",
    ):
        (out / "checkpoint-2" / name).write_bytes(b"cos\nsystem\n(X\x02\x00\x00\x00idtR.")
    command = [sys.executable, "-c", WATCHED, *FLAGS.replace(str(STEPS), "4").split(), *words]
    done = subprocess.run(
        [*command, "--output_dir", str(out)], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    assert done.stdout.splitlines()[-1] == "exit code 0 unpickled []", (
        done.stdout[-500:] + done.stderr[-2000:]
    )
    assert is_complete(out / "checkpoint-4")
    assert len(losses(out)) == 4, "it did not go on from the second step"
