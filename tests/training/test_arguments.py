"""The flags: the guides' commands as they stand, files, aliases, and errors that help."""

import json
import os
import subprocess
import sys

import pytest

from paddle_glm.errors import InputError
from paddle_glm.training.arguments import DataArguments
from paddle_glm.training.command_line import parse_finetune_args
from paddle_glm.training.initialize import TrainerArguments, initialize_training
from paddle_glm.training.model_arguments import ModelArguments
from tests.paths import ROOT

# PaddleNLP's two ChatGLM commands, but for paths, and for the four processes that they are launched with.
GUIDE_A = """
    --model_name_or_path M --task_name_or_path AdvertiseGen/ --max_steps 3000 --learning_rate 3e-5
    --warmup_steps 20 --eval_steps 100 --logging_steps 1 --save_steps 1000 --save_total_limit 1
    --output_dir ./checkpoints/chatglm-6b --src_length 64 --tgt_length 64 --per_device_eval_batch_size 4
    --per_device_train_batch_size 4 --gradient_accumulation_steps 32 --fp16 --fp16_opt_level O2
    --recompute True --do_train --do_eval --tensor_parallel_degree 4 --do_generation True
"""
GUIDE_B = """
    --model_name_or_path M --task_name_or_path school_math_0.25M --num_train_epochs 2 --learning_rate 3e-5
    --warmup_ratio 0.03 --eval_steps 500 --logging_steps 1 --save_steps 500 --save_total_limit 1
    --output_dir ./checkpoints/chatglm-6b --src_length 128 --tgt_length 512 --per_device_eval_batch_size 4
    --per_device_train_batch_size 4 --gradient_accumulation_steps 32 --fp16 --fp16_opt_level O2
    --recompute True --do_train --do_eval --disable_tqdm True --metric_for_best_model accuracy
    --load_best_model_at_end True --do_generation False --tensor_parallel_degree 4
"""
LEAST = ["--model_name_or_path", "M", "--output_dir", "out"]
ALONE = ["--tensor_parallel_degree", "1"]


def initialized(argv: list[str]) -> tuple[ModelArguments, DataArguments, TrainerArguments]:
    """Arguments as a run has them once it is set up."""
    model, data, args = parse_finetune_args(argv)
    return model, data, initialize_training(args)


def test_guide_command_a():
    model, data, args = initialized([*GUIDE_A.split(), *ALONE])
    assert model.model_name_or_path == "M"
    assert (data.task_name_or_path, data.src_length, data.tgt_length) == ("AdvertiseGen/", 64, 64)
    assert data.do_generation and args.do_train and args.do_eval and args.recompute
    assert (args.max_steps, args.eval_steps, args.save_steps, args.save_total_limit) == (3000, 100, 1000, 1)
    assert args.evaluation_strategy.value == "steps"
    assert args.device == "cpu" and not args.fp16 and args.dtype == "float32"


def test_guide_command_b():
    _, data, args = initialized([*GUIDE_B.split(), *ALONE])
    assert not data.do_generation and args.load_best_model_at_end and args.disable_tqdm
    assert args.metric_for_best_model == "accuracy" and args.greater_is_better


def test_four_ways_need_four_processes():
    with pytest.raises(InputError, match=r"tensor_parallel_degree 4.*--nproc_per_node 4"):
        initialized(GUIDE_A.split())


def test_thudm_names():
    lengths = "--max_source_length 9 --max_target_length=7 --predict_with_generate"
    rows = "--prompt_column q --response_column a --train_file t.json"
    _, data, _ = parse_finetune_args([*LEAST, *lengths.split(), *rows.split()])
    assert (data.src_length, data.tgt_length, data.do_generation) == (9, 7, True)
    assert (data.prompt_column, data.response_column, data.train_file) == ("q", "a", "t.json")


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_command_line_wins_over_a_file(tmp_path, suffix):
    values = {
        "model_name_or_path": "M",
        "output_dir": "out",
        "max_steps": 5,
        "do_train": True,
        "src_length": 11,
    }
    values |= {"learning_rate": 1e-4, "seed": None, "max_target_length": 12}
    path = tmp_path / f"run.{suffix}"
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML, too
    _, data, args = parse_finetune_args([str(path), "--max_steps", "7"])
    assert (args.max_steps, args.do_train, args.learning_rate, args.seed) == (7, True, 1e-4, 42)
    assert (data.src_length, data.tgt_length) == (11, 12)


def test_yaml_exponents_without_a_point_are_numbers(tmp_path):
    (tmp_path / "run.yaml").write_text("model_name_or_path: M\noutput_dir: out\nlearning_rate: 3e-5\n")
    assert parse_finetune_args([str(tmp_path / "run.yaml")])[2].learning_rate == 3e-5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_stepz", "3"], r"'max_stepz': did you mean 'max_steps'\?"),
        (["--max_step", "3"], "did you mean 'max_steps'"),
        (["--max_steps", "many"], "--max_steps.*many"),
        (["--sharding", "stage4"], "--sharding stage4: expected stage1, stage2 or stage3"),
        (["--sharding", "stage2 offload"], "--sharding stage2 offload: expected stage1, stage2 or stage3"),
        (["--sharding", "stage1", "--sharding_parallel_degree", "2"], "_degree 2: expected 1, the number"),
        (["--sharding_parallel_degree", "2"], "needs --sharding stage1, stage2 or stage3"),
        (["--pipeline_parallel_degree", "2"], "pipeline_parallel_degree 2 is not supported"),
        (["--src_length", "0"], "src_length"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps"),
        (["--device", "abacus"], "abacus"),
        (["--fp16", "--bf16"], "fp16"),
        (["--report_to", "wandb"], "wandb"),
        (
            ["--do_train", "--do_eval", "--eval_steps", "3", "--save_steps", "4", "--load_best_model_at_end"],
            "multiple",
        ),
        (["surprise"], "surprise"),
    ],
)
def test_what_cannot_be_used_is_an_error(words, message):
    with pytest.raises(InputError, match=message):
        initialized([*LEAST, *words])


@pytest.mark.parametrize(
    ("text", "message"),
    [("max_stepz: 3", "max_stepz.*max_steps"), ("- 1", "mapping"), ("a: [", "cannot be read")],
)
def test_a_bad_file_is_an_error(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path.name}.*{message}"):
        parse_finetune_args([str(path)])


def test_a_missing_file_is_an_error():
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        parse_finetune_args(["nowhere.yaml"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: path.parent.name
)
def test_shipped_files_parse(path):
    _, data, args = parse_finetune_args([str(path), *LEAST, *ALONE])
    assert args.do_train and args.do_eval and data.src_length


@pytest.mark.integration
def test_parsing_sets_nothing_up():
    """Also under the launcher, whose processes would wait for each other."""
    flags = [*GUIDE_A.split(), "--sharding", "stage2"]
    code = (
        "import logging, sys\n"
        "from paddle_glm.training.command_line import parse_finetune_args\n"
        "state = (logging.root.level, list(logging.root.handlers), set(logging.root.manager.loggerDict))\n"
        f"_, _, args = parse_finetune_args({flags})\n"
        "assert args.tensor_parallel_degree == 4 and args.fp16 and args.logging_dir is None\n"
        "assert state == (logging.root.level, logging.root.handlers, set(logging.root.manager.loggerDict))\n"
        "assert not {'paddle', 'paddlenlp'} & set(sys.modules)\n"
        "import paddle\n"
        "device, stride = paddle.get_device(), paddle.get_flags('FLAGS_use_stride_kernel')\n"
        f"parse_finetune_args({flags})\n"
        "assert device == paddle.get_device() and stride == paddle.get_flags('FLAGS_use_stride_kernel')\n"
        "assert not paddle.distributed.is_initialized() and 'paddlenlp' not in sys.modules\n"
    )
    launched = {"PADDLE_TRAINERS_NUM": "4", "PADDLE_TRAINER_ID": "1", "PADDLE_RANK_IN_NODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **launched}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
