"""A run that goes on with other numbers of processes and other degrees ends where it would have ended."""

import pytest

from tests.distributed.launch import finetune_in_turn
from tests.training.finetune_helpers import (
    finetune,
    losses,
    max_parameter_difference,
    read_log,
    write_rows,
)

FLAGS = """
    --do_train --max_steps 6 --save_steps 1 --logging_steps 1 --src_length 24 --tgt_length 12
    --per_device_train_batch_size 2 --learning_rate 1e-3 --max_grad_norm 0.5 --warmup_steps 3
    --lr_scheduler_type cosine --disable_tqdm True --report_to none
"""
FOUR, TWO = "--gradient_accumulation_steps 4", "--gradient_accumulation_steps 2"


@pytest.fixture(scope="module")
def words(tiny_checkpoint, tiny_rows, tmp_path_factory):
    # 16 rows are two steps of 8: the run goes through three epochs.
    data = write_rows(tmp_path_factory.mktemp("rows"), tiny_rows[:24])
    return [*FLAGS.split(), "--model_name_or_path", str(tiny_checkpoint), "--task_name_or_path", str(data)]


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    """`whole`: the uninterrupted run. Each other run begins from a checkpoint of the one before."""
    folder = tmp_path_factory.mktemp("sizes")
    assert finetune(FOUR, *words, "--output_dir", folder / "whole") == 0

    def going_on(name, source, step, flags):
        out, checkpoint = str(folder / name), f"checkpoint-{step}"
        return {
            "flags": [*words, *flags.split(), "--output_dir", out],
            "copy": (str(folder / source / checkpoint), f"{out}/{checkpoint}"),
        }

    pair = [
        going_on("data", "whole", 1, f"{TWO} --sharding stage3"),
        going_on("model", "data", 2, f"{FOUR} --tensor_parallel_degree 2"),
    ]
    finetune_in_turn(pair, 2, folder / "logs2")
    four = [
        going_on("both", "model", 3, f"{TWO} --tensor_parallel_degree 2 --sharding stage1"),
        going_on("wide", "both", 4, f"{FOUR} --tensor_parallel_degree 4"),
    ]
    done = finetune_in_turn(four, 4, folder / "logs4")
    assert "dropout starts from --seed" in done.stdout
    (folder / "back").mkdir()
    (folder / "wide" / "checkpoint-5").rename(folder / "back" / "checkpoint-5")
    assert finetune(FOUR, *words, "--output_dir", folder / "back") == 0
    return folder


@pytest.mark.parametrize(("name", "step"), [("data", 1), ("model", 2), ("both", 3), ("wide", 4), ("back", 5)])
def test_it_goes_on_as_if_nothing_had_changed(folder, name, step):
    assert [line["step"] for line in read_log(folder / name)] == list(range(step + 1, 7))
    assert losses(folder / name) == pytest.approx(losses(folder / "whole")[step:], abs=1e-5)
    expected, found = (
        [(line["grad_norm"], line["learning_rate"]) for line in read_log(folder / run)][-(6 - step) :]
        for run in ("whole", name)
    )
    assert [rate for _, rate in found] == [rate for _, rate in expected]
    assert [norm for norm, _ in found] == pytest.approx([norm for norm, _ in expected], abs=1e-5)
    assert max_parameter_difference(folder / name, folder / "whole") < 1e-5


def test_as_many_rows_per_step_are_asked_for(words, folder, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    (folder / "both" / "checkpoint-5").rename(tmp_path / "out" / "checkpoint-5")
    assert finetune("", *words, "--output_dir", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert "8 rows per optimizer step, this run has 2" in error
    assert error.rstrip().endswith("give --gradient_accumulation_steps 4")
