"""One rank fails: all ranks end soon, the message names it, nothing is half, the same command goes on."""

import json
import re
from pathlib import Path

import pytest

from paddle_glm.checkpoint import is_complete
from tests.distributed.launch import launch
from tests.training.finetune_helpers import losses, write_rows

WORKER = Path(__file__).with_name("check_failures.py")
FLAGS = """
    --do_train --max_steps 5 --save_steps 1 --logging_steps 1 --src_length 24 --tgt_length 12 --hang_timeout 4
    --per_device_train_batch_size 2 --learning_rate 1e-3 --disable_tqdm True --report_to none
"""


@pytest.fixture
def words(tiny_checkpoint, tiny_rows, tmp_path):
    data = write_rows(tmp_path / "rows", tiny_rows[:40])
    folders = ("--model_name_or_path", tiny_checkpoint, "--task_name_or_path", data)
    return [*FLAGS.split(), *map(str, folders), "--output_dir", str(tmp_path / "out")]


def run(words, tmp_path, rank, failure, *more):
    """The workers' logs, by rank, of a run of two processes in which `rank` fails in step 4."""
    logs = tmp_path / f"logs_{failure}"
    done = launch(WORKER, 2, logs, str(rank), "4", failure, *words, *more)
    assert (done.returncode == 0) == (failure == "none"), done.stdout
    return [(logs / f"workerlog.{number}").read_text(encoding="utf-8") for number in range(2)]


def test_a_killed_rank(words, tmp_path):
    """And the same command goes on."""
    log, _ = run(words, tmp_path, 1, "killed", "--tensor_parallel_degree", "2")
    assert re.search(r"error: rank 1 \(.*\) has ended without a word: killed", log)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("checkpoint-*") if is_complete(path))[-1] == "checkpoint-3"
    run(words, tmp_path, 1, "none", "--tensor_parallel_degree", "2")
    assert is_complete(out / "checkpoint-5") and not list(out.glob(".checkpoint*"))
    assert len(losses(out)) == 5


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("failure", "flags", "message"),
    [
        ("nan", "", r"error: rank 1 \(.*\) has failed: the loss is NaN or infinite in step 4"),
        pytest.param(
            *("hangs", "", r"error: rank 1 \(.*\) hangs: no progress for \d+ s, in .*check_failures.py"),
            marks=SLOW,
        ),
        pytest.param(
            *("disk", "--sharding stage1"),
            r"error: rank 1 \(.*\) has failed: OSError: .*No space left on device",
            marks=SLOW,
        ),
        pytest.param(
            *("stopped", "", r"error: rank 1 \(.*\) has not been heard of for 4 s: the process is stopped"),
            marks=SLOW,
        ),
    ],
)
def test_it_is_named_with_the_reason(words, tmp_path, failure, flags, message):
    log, _ = run(words, tmp_path, 1, failure, *flags.split())
    assert re.search(message, log), log
    assert not (tmp_path / "out" / "checkpoint-4").exists()


@SLOW
def test_other_rows(words, tmp_path):
    """One machine's file has one row more."""
    rows = tmp_path / "rows" / "train.json"
    other = tmp_path / "other" / "train.json"
    other.parent.mkdir()
    other.write_text(rows.read_text(encoding="utf-8") + json.dumps({"content": "a", "summary": "b"}) + "\n")
    log, _ = run(words, tmp_path, 1, "rows", "--train_file", str(rows))
    assert re.search(
        r"rank 1 \(.*\) differs from rank 0 \(.*\) in the train rows \(train.json\): \d+ bytes", log
    )
    assert not (tmp_path / "out").exists()
