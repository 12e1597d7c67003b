"""Finetuning in real processes, by the commands of the guides: the same numbers as in one process."""

import json
import shutil

import pytest

from paddle_glm.checkpoint import is_complete, open_checkpoint
from tests.distributed.launch import ROOT, launch
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
    flags = f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 2 --tensor_parallel_degree 2"
    run(flags, 4, tmp_path / "out", *paths)
    assert_equal_runs(alone, tmp_path / "out")


def test_a_resumed_run_is_the_same_in_every_bit(paths, tmp_path):
    flags = f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 2 --tensor_parallel_degree 2"
    flags += " --do_generation False --save_total_limit 9"
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(flags, 2, whole, *paths)
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    run(flags, 2, resumed, *paths)
    assert resumable_files(resumed / "checkpoint-4") == resumable_files(whole / "checkpoint-4")
    assert len(resumable_files(resumed / "checkpoint-4")) >= 9
    for rank in range(2):
        name = f"model-tp{rank:02d}-of-02.safetensors"
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_other_processes_start_from_its_weights_and_replace_it_late(paths, tmp_path, capfd):
    """The advice for another number of processes is followed; a new run of two replaces the earlier one."""
    flags = f"{GUIDE_A} {SHORT} --gradient_accumulation_steps 2 --do_generation False"
    out, new = tmp_path / "out", tmp_path / "new"
    run(f"{flags} --tensor_parallel_degree 2 --save_total_limit 9", 2, out, *paths)
    assert finetune(f"{flags} --tensor_parallel_degree 1", *paths, "--output_dir", out) == 2
    error = capfd.readouterr().err
    advice = f"(--model_name_or_path {out / 'checkpoint-4'} --output_dir NEW)"
    assert "tensor_parallel_degree 2 and data_parallel_degree 1, this run has 1 and 1" in error
    assert advice in error
    followed = advice.strip("()").replace("NEW", str(new))
    assert finetune(f"{flags} --tensor_parallel_degree 1 {followed}", *paths[2:]) == 0
    assert is_complete(new) and losses(new)[0] < losses(out)[0]
    again = f"{flags} --tensor_parallel_degree 2 --overwrite_output_dir --max_steps 2"
    run(again, 2, out, *paths)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
    assert is_complete(out) and is_complete(out / "checkpoint-2") and len(losses(out)) == 2


def test_guide_command_b(paths, tiny_rows, tmp_path):
    """School-math rows, the best of several checkpoints, no generation."""
    rows = [{"instruction": row["content"], "input": "", "output": row["summary"]} for row in tiny_rows]
    folder = write_rows(tmp_path / "rows", rows)
    flags = f"{GUIDE_B} {SHORT} --gradient_accumulation_steps 2 --tensor_parallel_degree 2"
    run(flags, 2, tmp_path / "out", *paths, "--task_name_or_path", str(folder))
    measured = {
        line["step"]: line["eval_accuracy"] for line in read_log(tmp_path / "out") if "eval_accuracy" in line
    }
    best = max(measured, key=measured.__getitem__)
    assert max_parameter_difference(tmp_path / "out", tmp_path / "out" / f"checkpoint-{best}") == 0
    assert open_checkpoint(tmp_path / "out").tensor_parallel_degree == 2


def test_too_few_processes_are_told_how_many(paths, tmp_path):
    done = launch(
        SCRIPT, 2, tmp_path / "logs", *GUIDE_A.split(), *paths, "--output_dir", str(tmp_path / "out")
    )
    assert done.returncode != 0
    assert "tensor_parallel_degree 4 needs a multiple of 4 processes, but 2 run" in done.stdout
    assert "Traceback" not in done.stdout.split("== workerlog.0")[1]
