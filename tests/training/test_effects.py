"""Every flag of finetune has an effect, or is an error that says what it needs."""

import pytest

from paddle_glm.chat_template import with_source_prefix
from paddle_glm.errors import InputError
from paddle_glm.models.chatglm.template import CHATGLM
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.chatglm3.template import CHATGLM3
from paddle_glm.training.command_line import ALIASES, known_flag_names, parse_finetune_args
from paddle_glm.training.flag_requirements import ALWAYS_EFFECTIVE, FLAG_REQUIREMENTS, UNSUPPORTED_FLAGS

LEAST = ["--model_name_or_path", "M", "--output_dir", "out"]


def test_every_flag_is_in_one_table():
    """A new flag has to be put into one of the tables."""
    groups = [set(FLAG_REQUIREMENTS), set(ALWAYS_EFFECTIVE), set(UNSUPPORTED_FLAGS)]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert set.union(*groups) == known_flag_names() - set(ALIASES)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--do_train --test_file x", "--test_file x has no effect here: it needs --do_eval or --do_predict"),
        ("--do_train --validation_file x", "it needs --do_eval"),
        ("--do_train --eval_steps 5", "it needs --do_eval"),
        ("--do_train --max_eval_samples 5", "it needs --do_eval"),
        ("--do_train --do_eval --evaluation_strategy epoch --eval_steps 5", "--evaluation_strategy steps"),
        ("--do_train --load_best_model_at_end", "it needs --do_eval"),
        ("--do_train --lora_rank 4", "--lora_rank 4 has no effect here: it needs --lora True"),
        ("--do_train --prefix_projection", "it needs --pre_seq_len N"),
        ("--do_train --num_prefix_tokens 8", "it needs --prefix_tuning True"),
        ("--do_train --quantization_group_size 64", "it needs --quantization_bit"),
        ("--do_train --fp16_opt_level O2", "it needs --fp16 or --bf16"),
        ("--do_train --bf16 --scale_loss 8", "it needs --fp16"),
        ("--do_train --lr_scheduler_type constant --warmup_steps 5", "than constant"),
        ("--do_train --num_cycles 2", "--lr_scheduler_type cosine"),
        ("--do_train --do_generation", "--do_eval or --do_predict"),
        ("--do_train --do_eval --num_beams 2", "with --do_generation"),
        ("--do_train --max_predict_samples 2", "it needs --do_predict"),
        ("--do_eval --max_train_samples 2", "it needs --do_train"),
        ("--do_eval --validation_file x --train_file y", "--do_eval without --validation_file"),
        ("--do_eval --learning_rate 1e-3", "it needs --do_train"),
        (
            "--do_train --lazy --dataset_cache c",
            "--lazy has no effect here: it needs --dataset_cache left out",
        ),
        ("--do_train --lazy --zero_padding", "--dataset_cache FOLDER in place of --lazy"),
        ("--do_train --no_cuda True", "--no_cuda True is not supported"),
        ("--do_train --run_name x", "--run_name x is not supported"),
        ("--do_train --max_train_samples 0", "--max_train_samples 0: expected at least 1"),
    ],
)
def test_flags_without_an_effect_are_errors(flags, message):
    with pytest.raises(InputError) as caught:
        parse_finetune_args([*LEAST, *flags.split()])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--max_steps 5 --num_train_epochs 2",
            "--num_train_epochs 2.0 has no effect here: it needs --max_steps",
        ),
        ("--warmup_steps 5 --warmup_ratio 0.1", "needs --warmup_steps left out"),
        ("--save_strategy no --save_steps 5", "--save_steps 5 has no effect here: it needs --save_strategy"),
    ],
)
def test_flags_that_another_overrules_are_said(flags, message, caplog):
    parse_finetune_args([*LEAST, "--do_train", *flags.split()])
    assert message in caplog.text


def test_switches_that_are_off_ask_for_nothing():
    flags = "--do_train --do_generation False --lora False --load_best_model_at_end False"
    parse_finetune_args([*LEAST, *flags.split()])


def test_the_command_line_may_turn_off_what_a_recipe_needs(tmp_path):
    recipe = tmp_path / "run.yaml"
    recipe.write_text("do_train: true\ndo_eval: true\neval_steps: 5\nnum_train_epochs: 2\n")
    parse_finetune_args([str(recipe), *LEAST, "--do_eval", "False", "--max_steps", "3"])
    with pytest.raises(InputError, match="--eval_steps 7 has no effect"):
        parse_finetune_args([str(recipe), *LEAST, "--do_eval", "False", "--eval_steps", "7"])
    recipe.write_text("do_train: true\nlora_rank: 4\n")
    with pytest.raises(InputError, match="it needs --lora True"):
        parse_finetune_args([str(recipe), *LEAST])
    parse_finetune_args([str(recipe), *LEAST, "--lora", "True"])


def test_a_prefix_of_the_text_stands_before_the_prompt():
    for template in (CHATGLM, CHATGLM2):
        changed = with_source_prefix(template, "总结：{")
        assert changed.prompt("q", [("a", "b")]) == "总结：{" + template.prompt("q", [("a", "b")])
        assert with_source_prefix(template, None) is template
    with pytest.raises(InputError, match="system message"):
        with_source_prefix(CHATGLM3, "x")
