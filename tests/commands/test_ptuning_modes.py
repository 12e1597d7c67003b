"""`ptuning` and `finetune` with --do_eval and --do_predict: what they write, and flags that do nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest

from paddle_glm.errors import InputError
from paddle_glm.main import main
from paddle_glm.training.thudm_flags import parse_thudm_flags, precision_defaults, to_finetune_argv
from tests.training.finetune_helpers import write_rows

COMMON = """--model_name_or_path model --train_file rows/train.json --prompt_column content
    --response_column summary --max_source_length 24 --max_target_length 12"""
TRAIN = "--do_train --max_steps 2 --per_device_train_batch_size 2 --learning_rate 5e-2 --logging_steps 1"
EVALUATE = "--do_eval --validation_file rows/dev.json"
PREDICT = "--do_predict --test_file rows/dev.json"
WITHOUT_TRAINING = COMMON.replace("--train_file rows/train.json", "")
SCORES = {"rouge-1", "rouge-2", "rouge-l", "bleu-4"}


@pytest.fixture(scope="module")
def workplace(tiny_checkpoint, tiny_rows, tmp_path_factory) -> Path:
    """A folder with `model`, `rows`, and a prefix and adapters that were trained, measured, answered with."""
    folder = tmp_path_factory.mktemp("modes")
    write_rows(folder / "rows", tiny_rows[:20], dev=4)
    shutil.copytree(tiny_checkpoint, folder / "model")
    before = os.getcwd()
    os.chdir(folder)
    try:
        for name, own in (("prefix", "--pre_seq_len 6"), ("lora", "--lora True --lora_rank 4")):
            flags = f"{COMMON} {TRAIN} {EVALUATE} {PREDICT} {own} --predict_with_generate --output_dir {name}"
            assert run(flags) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)


def run(flags: str, command: str = "ptuning") -> int:
    return main([command, *flags.split()])


def results(folder: str, split: str) -> dict:
    return json.loads(Path(folder, f"{split}_results.json").read_text())


def predictions(folder: str) -> list[dict]:
    lines = Path(folder, "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("folder", ["prefix", "lora"])
def test_what_scripts_read_is_there(folder):
    train, evaluated, predicted = (results(folder, split) for split in ("train", "eval", "predict"))
    assert train["train_samples"] == 16 and train["train_loss"] > 0
    assert evaluated["eval_samples"] == 4 and evaluated["eval_loss"] > 0
    assert {f"eval_{name}" for name in SCORES} <= evaluated.keys()
    assert predicted["predict_samples"] == 4
    speed = {"runtime", "samples_per_second", "loss"}
    assert {f"predict_{name}" for name in SCORES | speed} <= predicted.keys()
    everything = results(folder, "all")
    assert all(part.items() <= everything.items() for part in (train, evaluated, predicted))
    state = json.loads(Path(folder, "trainer_state.json").read_text())
    assert [line["step"] for line in state["log_history"] if "loss" in line] == [1, 2]
    assert not any("eval_loss" in line for line in state["log_history"][:-1])  # main.py's: at the end alone
    assert [row.keys() for row in predictions(folder)] == [{"labels", "predict"}] * 4


@pytest.mark.parametrize(("folder", "flag"), [("prefix", "ptuning_checkpoint"), ("lora", "lora_path")])
def test_what_was_trained_predicts_alike_when_it_is_opened_again(folder, flag, tmp_path):
    assert run(f"{WITHOUT_TRAINING} {PREDICT} --{flag} {folder} --output_dir {tmp_path}") == 0
    assert predictions(str(tmp_path)) == predictions(folder)
    again, first = results(str(tmp_path), "predict"), results(folder, "predict")
    assert again["predict_loss"] == pytest.approx(first["predict_loss"], rel=1e-5)
    assert run(f"{WITHOUT_TRAINING} {PREDICT} --output_dir {tmp_path / 'base'}") == 0
    assert results(str(tmp_path / "base"), "predict")["predict_loss"] != pytest.approx(first["predict_loss"])


def test_evaluation_alone(tmp_path, caplog):
    flags = f"{WITHOUT_TRAINING} {EVALUATE} --ptuning_checkpoint prefix --pre_seq_len 6 --max_eval_samples 3"
    with caplog.at_level("INFO"):
        assert run(f"{flags} --overwrite_cache --overwrite_output_dir --output_dir {tmp_path}") == 0
    found = results(str(tmp_path), "eval")
    assert found["eval_samples"] == 3 and not any("rouge" in name for name in found)
    assert "without effect here: --overwrite_cache, --overwrite_output_dir" in caplog.text
    assert not (tmp_path / "generated_predictions.txt").exists()


def test_first_rows_lengths_and_rows_without_answers(tmp_path):
    rows = [json.loads(line) for line in Path("rows/dev.json").read_text(encoding="utf-8").splitlines()]
    rows[1]["summary"] = ""
    data = tmp_path / "test.json"
    data.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    flags = f"{WITHOUT_TRAINING} --do_predict --test_file {data} --max_predict_samples 2"
    assert run(f"{flags} --val_max_target_length 4 --num_beams 2 --output_dir {tmp_path / 'out'}") == 0
    found = predictions(str(tmp_path / "out"))
    assert [bool(row["labels"]) for row in found] == [True, False]
    assert all(len(row["predict"]) < 40 for row in found)  # of 4 tokens
    assert results(str(tmp_path / "out"), "predict")["predict_samples"] == 2


def test_training_takes_the_first_rows(tmp_path):
    flags = f"{COMMON} {TRAIN} --max_train_samples 3 --max_steps 1 --pre_seq_len 2 --output_dir {tmp_path}"
    assert run(flags) == 0
    assert results(str(tmp_path), "train")["train_samples"] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--pre_seq_len 5 --ptuning_checkpoint prefix", "a prefix of 6 tokens, not 5"),
        ("--prefix_projection --ptuning_checkpoint prefix", "prefix without projection"),
        ("--pre_seq_len 6", "there is no trained prefix; give --ptuning_checkpoint"),
        ("--ptuning_checkpoint prefix --lora_path lora", "exclude each other"),
        ("--lora_path nowhere", "nowhere"),
        ("--lora_path lora --lora_rank 8", "--lora_rank 8: the adapters in lora have 4"),
        ("--lora True", "--lora has no effect here: it needs --do_train, or --lora_path"),
        ("--device abacus", "abacus"),
        ("--family chatglm", "is it a ChatGLM-6B checkpoint"),
        ("--learning_rate 1e-4", "--learning_rate 0.0001 has no effect here: it needs --do_train"),
    ],
)
def test_prediction_drops_no_flag(flags, message, tmp_path, capfd):
    assert run(f"{WITHOUT_TRAINING} {PREDICT} {flags} --output_dir {tmp_path / 'out'}") == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


GPU = {"recompute": ["True"], "fp16": ["True"], "fp16_opt_level": ["O2"]}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--pre_seq_len 128", GPU),
        ("--lora True", GPU),
        ("--pre_seq_len 128 --quantization_bit 4", GPU),
        ("--pre_seq_len 128 --fp16", {"recompute": ["True"], "fp16_opt_level": ["O2"]}),
        ("--pre_seq_len 128 --bf16 True", {"recompute": ["True"], "fp16_opt_level": ["O2"]}),
        ("--pre_seq_len 128 --fp16 False", {"recompute": ["True"]}),
        ("--learning_rate 1e-4", {"recompute": ["True"]}),  # main.py trains whole models in float32
    ],
)
def test_precision_on_gpus_alone(flags, expected):
    assert precision_defaults(True, parse_thudm_flags(flags.split())) == expected
    assert precision_defaults(False, parse_thudm_flags(flags.split())) == {}


def test_flags_win_over_defaults():
    flags = "--do_train --pre_seq_len 8 --recompute False --fp16_opt_level O1"
    words = to_finetune_argv(flags.split(), True)
    given = dict(zip(words[::2], words[1::2], strict=False))
    assert given["--recompute"] == "False" and given["--fp16_opt_level"] == "O1" and given["--fp16"] == "True"


def test_memory_is_estimated_as_a_gpu_would_run_it(capsys):
    own = "--pre_seq_len 128 --max_source_length 64 --max_target_length 128 --per_device_train_batch_size 1"
    for flags, expected in (
        (own, 11.84),
        (f"{own} --device cpu", 24.5),
        (f"{own} --quantization_bit 4", 4.03),
    ):
        assert run(f"--json --model chatglm2-6b --command ptuning {flags}", "estimate-memory") == 0
        found = json.loads(capsys.readouterr().out)["total"] / 2**30
        assert found == pytest.approx(expected, abs=0.3 if "cpu" in flags else 0.006), flags
    assert run("--command ptuning --recipe configs/chatglm2/prefix.yaml", "estimate-memory") == 2


def test_unknown_flags_are_errors():
    with pytest.raises(InputError, match="did you mean 'max_predict_samples'"):
        to_finetune_argv(["--do_predict", "--max_predict_sample", "3"], False)
