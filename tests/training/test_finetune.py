"""`paddle-glm finetune` in one process: what it trains, measures, logs and writes."""

import json
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest

from paddle_glm import kernels
from paddle_glm.checkpoint import is_complete
from paddle_glm.training.callbacks import ThroughputCallback
from paddle_glm.training.trainer import FinetuneTrainer
from tests.paths import ROOT
from tests.training.finetune_helpers import finetune, losses, max_parameter_difference, read_log, write_rows

SMALL = """
    --src_length 24 --tgt_length 16 --per_device_train_batch_size 4 --learning_rate 3e-3 --logging_steps 1
    --disable_tqdm True
"""
EVALUATE = "--src_length 24 --tgt_length 16 --disable_tqdm True "
TINY = sorted((ROOT / "configs" / "tiny").glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tiny_rows, tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"), tiny_rows)


@pytest.fixture
def paths(tiny_checkpoint, folder, tmp_path):
    """Flags that name a tiny model and data, and where the output goes."""
    words = ("--model_name_or_path", tiny_checkpoint, "--task_name_or_path", folder)
    return (*words, "--output_dir", tmp_path / "out")


@pytest.fixture
def run(paths, tmp_path):
    """Runs that succeed; gives the output folder."""

    def start(flags, *words, name="out"):
        assert finetune(SMALL + flags, *paths, "--output_dir", tmp_path / name, *words) == 0
        return tmp_path / name

    return start


def test_rows_on_disk_train_as_those_in_memory(run, folder, tmp_path):
    """Also where some of them are held out for evaluation."""
    steps = "--do_train --do_eval --max_steps 2 --save_strategy no"
    rows = ("--task_name_or_path", folder / "train.json", "--dataloader_num_workers", 1)
    memory = read_log(run(steps, *rows))
    for flags in ("--lazy", f"--dataset_cache {tmp_path}/tokens"):
        log = read_log(run(f"{steps} {flags}", *rows, name=flags.split()[0]))
        for name in ("loss", "eval_loss"):
            assert [line[name] for line in log if name in line] == [
                line[name] for line in memory if name in line
            ]


def test_a_wrong_row_that_is_met_late_is_named(paths, tiny_rows, tmp_path, capsys):
    wrong = dict.fromkeys(tiny_rows[0], 5)
    folder = write_rows(tmp_path / "rows", [*tiny_rows[:4] * 30, *[wrong] * 30])
    flags = "--do_train --lazy --max_steps 99 --save_strategy no"
    assert finetune(SMALL + flags, *paths, "--task_name_or_path", folder / "train.json") == 2
    assert re.search(r"train\.json:1\d\d: '\w+' is 5: expected text", capsys.readouterr().err)


def test_a_run_learns_and_leaves_all_that_is_needed(run):
    steps = "--max_steps 12 --eval_steps 6 --save_steps 4 --save_total_limit 2"
    out = run(f"--do_train --do_eval {steps} --max_grad_norm 0.5")
    history = losses(out)
    assert len(history) == 12 and history[-1] < history[0] - 0.5
    record = read_log(out)[0]
    assert record["tokens_per_second"] > 0 and record["peak_memory_mb"] > 100
    assert record["grad_norm"] > 0.5 and record["learning_rate"] > 0
    evaluation = [line for line in read_log(out) if "eval_loss" in line]
    assert [line["step"] for line in evaluation] == [6, 12]
    last = evaluation[-1]
    assert last["eval_perplexity"] == pytest.approx(np.exp(last["eval_loss"]))
    assert 0 <= last["eval_accuracy"] <= 1
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]
    assert is_complete(out) and all(is_complete(path) for path in out.glob("checkpoint-*"))
    assert max_parameter_difference(out, out / "checkpoint-12") == 0
    assert list((out / "runs").glob("vdlrecords*.log"))
    assert {"config.json", "tokenizer.model", "model.safetensors"} <= {path.name for path in out.iterdir()}
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_loss"] == last["eval_loss"] and "train_loss" in results


def test_the_best_weights_are_kept_and_loaded(run):
    # So large a rate makes every later step worse than the first.
    steps = "--max_steps 3 --eval_steps 1 --save_steps 1 --save_total_limit 1"
    rate = "--learning_rate 0.3 --lr_scheduler_type constant"
    out = run(
        f"--do_train --do_eval {steps} {rate} --metric_for_best_model loss --load_best_model_at_end True"
    )
    measured = [line["eval_loss"] for line in read_log(out) if "eval_loss" in line]
    number = int(np.argmin(measured)) + 1
    kept = sorted(path.name for path in out.glob("checkpoint-*"))
    assert kept == sorted({f"checkpoint-{number}", "checkpoint-3"})
    assert max_parameter_difference(out, out / f"checkpoint-{number}") == 0
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] == pytest.approx(min(measured))


def test_an_unknown_metric_is_an_error(paths, capfd):
    flags = "--do_train --do_eval --max_steps 1 --eval_steps 1 --save_steps 1 --metric_for_best_model beauty"
    assert finetune(SMALL + flags, *paths) == 2
    assert "--metric_for_best_model beauty: evaluation gives loss, perplexity" in capfd.readouterr().err


def test_generated_answers_are_scored(run):
    out = run("--do_train --do_eval --do_generation --max_steps 1 --recompute True")
    results = json.loads((out / "eval_results.json").read_text())
    assert {f"eval_{name}" for name in ("rouge-1", "rouge-2", "rouge-l", "bleu-4")} <= results.keys()


def test_rows_with_answers_score_full_marks(tiny_checkpoint, folder):
    """A model that gives the reference back: what is generated is compared with the right row."""
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.data.data_files import load_examples
    from paddle_glm.data.datasets import EvaluationDataset, GenerationDataset, SupervisedDataset
    from paddle_glm.evaluation import generation_metrics
    from paddle_glm.parallel import SINGLE_PROCESS

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    examples = load_examples(folder / "dev.json")
    sizes = (tokenizer.template, tokenizer, 64, 64)
    rows = EvaluationDataset(SupervisedDataset(examples, *sizes), GenerationDataset(examples, *sizes))
    metrics = generation_metrics.GenerationMetrics.__new__(generation_metrics.GenerationMetrics)
    metrics.data_group, metrics.batch_size = SINGLE_PROCESS, 2
    metrics.generate = lambda prompts: rows.generation.references[: len(prompts)]
    assert metrics(rows)["rouge-l"] == pytest.approx(100)
    assert metrics(rows, limit=1)["bleu-4"] == pytest.approx(100)


def test_packing_and_grouping(run):
    common = "--do_train --max_steps 3 --save_strategy no"
    packed = run(f"{common} --zero_padding --per_device_train_batch_size 2", name="packed")
    grouped = run(f"{common} --group_by_length", name="grouped")
    assert len(losses(packed)) == len(losses(grouped)) == 3


def test_rows_made_by_workers_are_the_same_rows(run, paths, tmp_path):
    """In a process of its own, as for users: Paddle's workers are forks, and end with the process."""
    common = "--do_train --max_steps 3 --save_strategy no --group_by_length"
    here = run(common, name="here")
    words = [*f"{SMALL} {common} --dataloader_num_workers 2".split(), *map(str, paths)]
    subprocess.run([sys.executable, "-m", "paddle_glm.main", "finetune", *words], cwd=ROOT, check=True)
    assert losses(tmp_path / "out") == losses(here)


def test_evaluation_alone_changes_nothing(paths, tmp_path):
    out = tmp_path / "out"
    assert finetune(EVALUATE + "--do_eval", *paths) == 0
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(np.log(520), abs=0.2)  # an untrained model over 520 words
    assert not (out / "model.safetensors").exists()


def test_rows_are_held_out_and_a_test_file_is_measured(run, folder, tiny_rows, tmp_path):
    data = tmp_path / "only.json"
    data.write_text(json.dumps(tiny_rows, ensure_ascii=False), encoding="utf-8")
    flags = "--do_train --do_eval --max_steps 1 --prompt_column content --response_column summary"
    out = run(flags, "--task_name_or_path", data, "--test_file", folder / "dev.json")
    results = json.loads((out / "all_results.json").read_text())
    assert {"eval_loss", "test_loss", "test_accuracy"} <= results.keys()


@pytest.mark.parametrize("file", TINY, ids=lambda file: file.stem)
def test_shipped_tiny_files_run(paths, tmp_path, file):
    short = "--max_steps 2 --eval_steps 2 --save_steps 2 --logging_steps 1 --tgt_length 12"
    short += " --tensor_parallel_degree 1"
    assert finetune(f"{file} {short}", *paths) == 0
    assert len(losses(tmp_path / "out")) == 2 and is_complete(tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "nothing to do"),
        ("--do_train --train_file nowhere.json", "nowhere.json"),
        ("--do_train --prompt_column content", "belong together"),
        ("--do_train --resume_from_checkpoint nowhere", "no complete checkpoint"),
        ("--do_train --resume_from_checkpoint True", "holds no complete checkpoint"),
    ],
)
def test_what_cannot_work_is_one_line(paths, capfd, flags, message):
    assert finetune(SMALL + flags, *paths) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_step_never_waits_for_the_device(run, monkeypatch, plain_training):
    """With the operators of a GPU no value of a tensor is read between the begin and the end of a step."""
    monkeypatch.setattr(kernels.training, "in_place", lambda *tensors: False)
    steps, read = [], []

    def recording(name, original):
        def call(tensor, *args, **options):
            if steps and steps[-1] == "begin":
                read.append(name)
            return original(tensor, *args, **options)

        return call

    def marking(name, original):
        def call(*args, **options):
            steps.append(name)
            return original(*args, **options)

        return call

    for name in ("numpy", "item", "tolist", "__float__", "__int__", "__bool__", "__index__", "__array__"):
        monkeypatch.setattr(paddle.Tensor, name, recording(name, getattr(paddle.Tensor, name)))
    for name in ("begin", "end"):
        original = getattr(ThroughputCallback, f"on_step_{name}")
        monkeypatch.setattr(ThroughputCallback, f"on_step_{name}", marking(name, original))
    flags = "--do_train --max_steps 3 --gradient_accumulation_steps 2 --recompute True --weight_decay 0.1"
    assert len(losses(run(flags))) == 3
    assert steps == ["begin", "end"] * 3
    assert read == []


def test_a_loss_that_is_not_finite_ends_the_run(run, monkeypatch, capfd):
    """At the next log entry, and before anything is saved."""
    compute = FinetuneTrainer.compute_loss
    monkeypatch.setattr(FinetuneTrainer, "compute_loss", lambda self, *args: compute(self, *args) * np.nan)
    with pytest.raises(AssertionError):  # its exit code is not 0
        run("--do_train --max_steps 4 --save_steps 2 --logging_steps 500")
    assert "the loss is NaN or infinite in step 1" in capfd.readouterr().err
