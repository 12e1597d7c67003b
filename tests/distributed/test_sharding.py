"""Sharded optimizers in real processes: the numbers of plain data parallelism, in less memory."""

import json
from pathlib import Path

import pytest

from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.training.memory_estimate import TrainingPlan, estimate_training_memory
from tests.distributed.launch import launch
from tests.distributed.test_tensor_parallel import results
from tests.training.finetune_helpers import (
    losses,
    max_parameter_difference,
    read_log,
    resumable_files,
    write_rows,
)

WORKER = Path(__file__).with_name("check_sharding.py")
SHORT = """
    --do_train --max_steps 4 --save_steps 2 --logging_steps 1 --src_length 24 --tgt_length 12
    --per_device_train_batch_size 2 --learning_rate 1e-3 --max_grad_norm 0.5 --disable_tqdm True
    --report_to none
"""
TWICE = "--gradient_accumulation_steps 2"


def run(runs, degree, processes, folder, model, rows):
    """What every process held in each run; the runs' folders are in `folder`."""
    data = write_rows(folder / "rows", rows)
    flags = (
        f"{SHORT} --model_name_or_path {model} --task_name_or_path {data} --tensor_parallel_degree {degree}"
    )
    done = launch(WORKER, processes, folder / "logs", str(folder), json.dumps(runs), *flags.split())
    assert done.returncode == 0, done.stdout
    ranks = {found["rank"]: found for found in results(done.stdout)}  # the first one's log is shown twice
    return [ranks[rank] for rank in range(processes)]


def assert_same_bits(one, other):
    """Losses, gradient norms, weights; the optimizer's state lies in other files."""
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in read_log(one) if key in line] == [
            line[key] for line in read_log(other) if key in line
        ]
    for path in one.glob("model*.safetensors"):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def assert_shared_out(found, names, processes_per_model=1):
    """Owners of one slice hold half of its state each, from stage 2 on half of its gradients, at 3 of it."""
    plain, stage1, stage2, stage3 = names
    for pair in zip(found[:processes_per_model], found[processes_per_model:], strict=True):
        whole = pair[0][plain]
        for name in (stage1, stage2, stage3):
            assert sum(rank[name]["state"] for rank in pair) == whole["state"]
            assert all(rank[name]["state"] < 0.6 * whole["state"] for rank in pair)
        assert all(rank[stage1]["gradients"] == whole["gradients"] for rank in pair)
        assert all(rank[stage2]["parameters"] == whole["parameters"] for rank in pair)
        assert sum(rank[stage3]["parameters"] for rank in pair) == whole["parameters"]
        assert all(rank[stage3]["parameters"] == rank[stage3]["state"] / 2 for rank in pair)
        for rank in (rank[stage] for rank in pair for stage in (stage2, stage3)):
            # Its own, and those that are on their way: the state is two moments of what it owns.
            assert rank["gradients"] <= rank["state"] / 2 + 1.2 * rank["largest"] < whole["gradients"]


def test_two_data_parallel_processes(tiny_checkpoint, tiny_rows, tmp_path):
    evaluate = "--do_eval --eval_steps 2 --per_device_eval_batch_size 2 --do_generation"
    runs = {
        "plain": evaluate,
        "stage1": "--sharding stage1 --sharding_parallel_degree 2",
        "stage2": "--sharding stage2",
        "stage3": f"--sharding stage3 {evaluate} --load_best_model_at_end",
        "resumed from stage2": "--sharding stage2",
        "resumed3 from stage3": "--sharding stage3 --recompute True",
        "other_stage from stage2": "--sharding stage1",
        "unshared from stage1": "",
        "twice": TWICE,
        "twice1": f"--sharding stage1 {TWICE}",
        "twice2": f"--sharding stage2 {TWICE}",
        "twice3": f"--sharding stage3 {TWICE}",
    }
    found = run(runs, 1, 2, tmp_path, tiny_checkpoint, tiny_rows)
    assert_shared_out(found, ("plain", "stage1", "stage2", "stage3"))
    plan = TrainingPlan(ModelConfig.from_pretrained(tiny_checkpoint), data_degree=2, stage=2)
    most = max(rank["stage2"]["state"] for rank in found)
    assert estimate_training_memory(plan).optimizer == pytest.approx(
        most, rel=0.01
    )  # and two numbers for each parameter
    for stage in ("stage1", "stage2", "stage3"):
        assert_same_bits(tmp_path / "plain", tmp_path / stage)
    plain, stage3 = (read_log(tmp_path / name)[-1] for name in ("plain", "stage3"))
    for metric in ("eval_loss", "eval_accuracy", "eval_rouge-1", "eval_bleu-4"):
        assert stage3[metric] == plain[metric]
    assert_same_bits(tmp_path / "twice", tmp_path / "twice1")
    assert_same_bits(tmp_path / "twice2", tmp_path / "twice3")
    # Averaged batch by batch, gradients are rounded in another order.
    assert losses(tmp_path / "twice2") == pytest.approx(losses(tmp_path / "twice"), abs=1e-6)
    assert max_parameter_difference(tmp_path / "twice2", tmp_path / "twice") < 2e-5
    for name in ("stage3", "resumed3"):
        name = f"{name}/checkpoint-4/model.safetensors"
        assert (tmp_path / name).read_bytes() == (tmp_path / "plain" / "model.safetensors").read_bytes()
    for name in ("resumed", "other_stage"):
        assert resumable_files(tmp_path / name / "checkpoint-4") == resumable_files(
            tmp_path / "stage2" / "checkpoint-4"
        )
    assert resumable_files(tmp_path / "unshared" / "checkpoint-4") == resumable_files(
        tmp_path / "plain" / "checkpoint-4"
    )
    states = sorted(path.name for path in (tmp_path / "stage1" / "checkpoint-4").glob("optimizer*"))
    assert states == [f"optimizer-tp00-of-01-dp{rank:02d}-of-02.safetensors" for rank in range(2)]


def test_beside_tensor_parallelism(tiny_checkpoint, tiny_rows, tmp_path):
    runs = {
        "plain": "",
        "stage1": "--sharding stage1",
        "stage2": "--sharding stage2",
        "resumed from stage2": "--sharding stage2",
        "recomputed": "--sharding stage2 --recompute True",
        "stage3": "--sharding stage3",
        "recomputed3": "--sharding stage3 --recompute True",
        "lora": "--lora True",
        "lora3": "--lora True --sharding stage3",
        "sequence": "--sequence_parallel True",
        "sequence3": "--sequence_parallel True --sharding stage3 --recompute True",
    }
    found = run(runs, 2, 4, tmp_path, tiny_checkpoint, tiny_rows)
    assert_shared_out(found, ("plain", "stage1", "stage2", "stage3"), processes_per_model=2)
    for stage in ("stage1", "stage2", "recomputed", "stage3", "recomputed3"):
        assert_same_bits(tmp_path / "plain", tmp_path / stage)
    assert_same_bits(tmp_path / "lora", tmp_path / "lora3")
    assert_same_bits(tmp_path / "sequence", tmp_path / "sequence3")
    for rank, other in zip(found[:2], found[2:], strict=True):
        sharded = rank["lora3"]["parameters"] + other["lora3"]["parameters"]
        assert sharded < 1.4 * rank["lora"]["parameters"]  # the base once, the adapter twice
    assert resumable_files(tmp_path / "resumed" / "checkpoint-4") == resumable_files(
        tmp_path / "stage2" / "checkpoint-4"
    )
    assert len(list((tmp_path / "stage2" / "checkpoint-4").glob("optimizer*"))) == 4


def test_more_processes_than_parameters(tiny_checkpoint, tiny_rows, tmp_path):
    """A prefix is one parameter: the process that owns nothing takes part in everything.

    Its base is of integers from the embedding on, which reach no optimizer.
    """
    base = tmp_path / "packed"
    reshard(tiny_checkpoint, base, quantize=(8, None, True))
    runs = {
        "plain": "--pre_seq_len 4",
        "stage1": "--pre_seq_len 4 --sharding stage1",
        "stage2": "--pre_seq_len 4 --sharding stage2",
        "stage3": "--pre_seq_len 4 --sharding stage3",
    }
    found = run(runs, 1, 2, tmp_path, base, tiny_rows)
    assert [rank["stage2"]["state"] > 0 for rank in found] == [True, False]
    assert all(rank["half"] for rank in found)
    for stage in ("stage1", "stage2", "stage3"):
        name = "prefix_model.safetensors"
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / stage / name).read_bytes()
