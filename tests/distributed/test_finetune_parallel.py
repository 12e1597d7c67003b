"""Finetuning in real processes, by the commands of the guides: the same numbers as in one process."""

import json

import pytest

from paddle_glm.checkpoint import is_complete, open_checkpoint
from tests.distributed.launch import ROOT, finetune_in_turn, launch
from tests.training.finetune_helpers import (
    finetune,
    losses,
    max_parameter_difference,
    read_log,
    resumable_files,
    write_rows,
)
from tests.training.test_arguments import GUIDE_A, GUIDE_B

SCRIPT = ROOT / "tools" / "finetune_generation.py"
# What makes the guides' commands short; the same flags given again win.
SHORT = """
    --learning_rate 1e-3 --max_steps 4 --eval_steps 2 --save_steps 2 --src_length 24 --tgt_length 12
    --per_device_train_batch_size 2 --per_device_eval_batch_size 3 --max_grad_norm 0.5
"""
PAIR = "--gradient_accumulation_steps 2 --tensor_parallel_degree 2"


@pytest.fixture(scope="module")
def paths(tiny_checkpoint, tiny_rows, tmp_path_factory):
    folder = write_rows(tmp_path_factory.mktemp("rows"), tiny_rows)
    return ["--model_name_or_path", str(tiny_checkpoint), "--task_name_or_path", str(folder)]


@pytest.fixture(scope="module")
def alone(paths, tmp_path_factory):
    """Guide command (a) in one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    flags = f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 4 --tensor_parallel_degree 1"
    assert finetune(flags, *paths, "--output_dir", out) == 0
    return out


def run(flags, processes, out, *words):
    done = launch(SCRIPT, processes, out.parent / "logs", *flags.split(), *words, "--output_dir", str(out))
    assert done.returncode == 0, done.stdout
    return done


def assert_equal_runs(one, other):
    assert losses(other) == pytest.approx(losses(one), abs=1e-5)
    for first, second in zip(read_log(one), read_log(other), strict=True):
        assert first["step"] == second["step"]
        names = [name for name in first if name.startswith(("grad_norm", "eval_loss", "eval_accuracy"))]
        assert [second[name] for name in names] == pytest.approx([first[name] for name in names], abs=2e-5)
    # AdamW divides by the gradient's size, which enlarges rounding where gradients are almost 0.
    assert max_parameter_difference(one, other) < 2e-4


def test_guide_command_a_with_four_processes(paths, alone, tmp_path):
    """Four ranks share two key/value groups."""
    done = run(f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 4", 4, tmp_path / "out", *paths)
    assert_equal_runs(alone, tmp_path / "out")
    assert done.stdout.count("Paddle has no CPU kernels") <= 2  # rank 0's log is shown twice
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert shards == [f"model-tp{rank:02d}-of-04.safetensors" for rank in range(4)]
    assert is_complete(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    expected = json.loads((alone / "eval_results.json").read_text())
    for name in ("rouge-1", "rouge-2", "rouge-l", "bleu-4"):
        assert results[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], abs=1e-3)


def test_two_models_of_two_processes(paths, alone, tmp_path):
    """Data parallelism does what accumulation does, beside tensor parallelism."""
    run(f"{GUIDE_A} {SHORT} {PAIR}", 4, tmp_path / "out", *paths)
    assert_equal_runs(alone, tmp_path / "out")


@pytest.fixture(scope="module")
def pair(paths, tiny_rows, tmp_path_factory):
    """A folder with runs of two processes that share a model; most begin from `whole`."""
    folder = tmp_path_factory.mktemp("pair")
    words = [*f"{GUIDE_A} {SHORT} {PAIR} --do_generation False --save_total_limit 9".split(), *paths]
    rows = [{"instruction": row["content"], "input": "", "output": row["summary"]} for row in tiny_rows]
    task = write_rows(folder / "rows", rows)
    guide_b = [*f"{GUIDE_B} {SHORT} {PAIR}".split(), *paths, "--task_name_or_path", str(task)]
    whole, resumed, replaced = (str(folder / name) for name in ("whole", "resumed", "replaced"))
    checkpoint = "checkpoint-2"
    runs = [
        {"flags": [*words, "--output_dir", whole]},
        {
            "flags": [*words, "--output_dir", resumed],
            "copy": (f"{whole}/{checkpoint}", f"{resumed}/{checkpoint}"),
        },
        {
            "flags": [*words, "--output_dir", replaced, "--overwrite_output_dir", "--max_steps", "2"],
            "copy": (whole, replaced),
        },
        {"flags": [*guide_b, "--output_dir", str(folder / "guide_b")]},
        {"flags": [*words, "--sequence_parallel", "True", "--output_dir", str(folder / "sliced")]},
    ]
    finetune_in_turn(runs, 2, folder / "logs")
    return folder


def test_a_resumed_run_is_the_same_in_every_bit(pair):
    whole, resumed = pair / "whole", pair / "resumed"
    assert resumable_files(resumed / "checkpoint-4") == resumable_files(whole / "checkpoint-4")
    assert len(resumable_files(resumed / "checkpoint-4")) >= 9
    for rank in range(2):
        name = f"model-tp{rank:02d}-of-02.safetensors"
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    assert [line["step"] for line in read_log(resumed) if "loss" in line] == [3, 4]


def test_slices_of_the_tokens_give_the_same_run(pair):
    assert_equal_runs(pair / "whole", pair / "sliced")


def test_a_new_run_replaces_the_earlier_one(pair):
    out = pair / "replaced"
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
    assert is_complete(out) and is_complete(out / "checkpoint-2") and len(losses(out)) == 2


def test_guide_command_b(pair):
    """School-math rows, the best of several checkpoints, no generation."""
    out = pair / "guide_b"
    measured = {line["step"]: line["eval_accuracy"] for line in read_log(out) if "eval_accuracy" in line}
    best = max(measured, key=measured.__getitem__)
    assert max_parameter_difference(out, out / f"checkpoint-{best}") == 0
    assert open_checkpoint(out).tensor_parallel_degree == 2


def test_too_few_processes_are_told_how_many(paths, tmp_path):
    done = launch(
        SCRIPT, 2, tmp_path / "logs", *GUIDE_A.split(), *paths, "--output_dir", str(tmp_path / "out")
    )
    assert done.returncode != 0
    assert "tensor_parallel_degree 4 needs a multiple of 4 processes, but 2 run" in done.stdout
    assert "Traceback" not in done.stdout.split("== workerlog.0")[1]
