"""THUDM's train.sh and evaluate.sh as they stand, with tools/ptuning.py in the place of main.py."""

import json
import shutil
from pathlib import Path

import pytest

from paddle_glm.main import main
from tests.training.finetune_helpers import finetune, losses, write_rows

# ptuning/train.sh and evaluate.sh of THUDM/ChatGLM2-6B, its variables filled in; paths follow in the test.
TRAIN = r"""
    --do_train
    --train_file AdvertiseGen\train.json
    --validation_file AdvertiseGen/dev.json
    --preprocessing_num_workers 10
    --prompt_column content
    --response_column summary
    --overwrite_cache
    --model_name_or_path THUDM/chatglm2-6b
    --output_dir output/adgen-chatglm2-6b-pt-8-2e-2
    --overwrite_output_dir
    --max_source_length 64
    --max_target_length 128
    --per_device_train_batch_size 1
    --per_device_eval_batch_size 1
    --gradient_accumulation_steps 16
    --predict_with_generate
    --max_steps 3
    --logging_steps 1
    --save_steps 2
    --learning_rate 2e-2
    --pre_seq_len 8
"""
EVALUATE = r"""
    --do_predict
    --validation_file AdvertiseGen/dev.json
    --test_file AdvertiseGen\dev.json
    --overwrite_cache
    --prompt_column content
    --response_column summary
    --model_name_or_path THUDM/chatglm2-6b
    --ptuning_checkpoint ./output/adgen-chatglm2-6b-pt-8-2e-2/checkpoint-2
    --output_dir ./output/adgen-chatglm2-6b-pt-8-2e-2
    --overwrite_output_dir
    --max_source_length 64
    --max_target_length 64
    --per_device_eval_batch_size 1
    --predict_with_generate
    --pre_seq_len 8
"""
OUTPUT = Path("output/adgen-chatglm2-6b-pt-8-2e-2")


@pytest.fixture
def workplace(tiny_checkpoint, tiny_rows, tmp_path, monkeypatch):
    """A folder in which the scripts' relative paths lead somewhere."""
    write_rows(tmp_path / "AdvertiseGen", tiny_rows[:24], dev=4)
    shutil.copytree(tiny_checkpoint, tmp_path / "THUDM" / "chatglm2-6b")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("bits", ["4", "8", None])
def test_train_sh_then_evaluate_sh(workplace, bits, capfd):
    """On a base of 4 or 8 bits and a float one, losses are nearly the same; the prefix alone is kept."""
    quantised = [] if bits is None else ["--quantization_bit", bits]
    assert main(["ptuning", *TRAIN.split(), *quantised]) == 0
    history = losses(OUTPUT)
    names = {path.name for path in (OUTPUT / "checkpoint-2").glob("*.safetensors")}
    assert len(history) == 3 and "prefix_model.safetensors" in names and "model.safetensors" not in names
    assert main(["ptuning", *EVALUATE.split(), *quantised]) == 0
    lines = (OUTPUT / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4 and json.loads(lines[0]).keys() == {"labels", "predict"}
    if bits is not None:
        assert main(["ptuning", *TRAIN.split()]) == 0
        assert losses(OUTPUT) == pytest.approx(history, rel=0.02) and losses(OUTPUT) != history


def test_both_at_once(workplace):
    short = "--max_steps 1 --test_file AdvertiseGen/dev.json --do_predict --max_target_length 8"
    assert main(["ptuning", *TRAIN.split(), *short.split()]) == 0
    assert (OUTPUT / "generated_predictions.txt").is_file()


def test_paddlenlp_names_train_the_same_prefix(workplace):
    assert main(["ptuning", *TRAIN.split()]) == 0
    flags = TRAIN.replace("\\", "/").replace("--pre_seq_len 8", "--prefix_tuning True --num_prefix_tokens 8")
    for name in (
        *("--overwrite_cache", "--preprocessing_num_workers 10", "--predict_with_generate"),
        *("--validation_file AdvertiseGen/dev.json", "--per_device_eval_batch_size 1"),
    ):
        flags = flags.replace(name, "")
    assert finetune(f"{flags} --output_dir other") == 0
    assert losses(Path("other")) == losses(OUTPUT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--overwrite_cache", "nothing to do"),
        ("--do_predict --model_name_or_path THUDM/chatglm2-6b --output_dir out", "no data: give"),
        ("--do_predict --predict_with_generate False", "--do_predict writes answers"),
        ("--do_train --pre_seq_length 8", "did you mean 'pre_seq_len'"),
        ("do_train", "belongs to no flag"),
    ],
)
def test_what_cannot_work_is_one_line(workplace, flags, message, capfd):
    assert main(["ptuning", *flags.split()]) == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error
