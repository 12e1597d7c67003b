from dataclasses import fields

import pytest

from paddle_glm.commands._sampling_arguments import GREEDY, add_sampling_arguments, sampling_params
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams
from paddle_glm.main import Parser


def parse(argv, defaults=GREEDY, exclude=(), **values):
    parser = Parser()
    add_sampling_arguments(parser, defaults, exclude)
    return sampling_params(parser.parse_args(argv.split()), defaults, **values)


def test_no_flags_are_the_defaults():
    for defaults in (GREEDY, GenerationParams(), GenerationParams(top_p=0.3, eos_token_ids=(4,))):
        assert parse("", defaults) == defaults


def test_every_field_has_its_flag_and_help():
    parser = Parser()
    add_sampling_arguments(parser, GREEDY)
    text = " ".join(parser.format_help().split())
    for option in fields(GenerationParams):
        if option.name not in ("eos_token_ids", "pad_token_id"):
            assert f"--{option.name}" in text
            assert option.metadata["help"] in text


def test_flags_are_read_with_their_types():
    params = parse("--do_sample --top_k 5 --top_p 0.5 --temperature 0.3 --seed 7 --max_new_tokens 9")
    assert params == GenerationParams(top_k=5, top_p=0.5, temperature=0.3, seed=7, max_new_tokens=9)
    assert parse("--early_stopping --num_beams 2").early_stopping is True
    assert parse("--early_stopping False --num_beams 2").early_stopping is False


@pytest.mark.parametrize(
    ("argv", "sampling"),
    [("--decode_strategy sampling", True), ("--decode_strategy greedy_search", False), ("--top_p 0.5", True),
     ("--top_p 0.5 --do_sample False", False), ("--num_beams 3", False), ("--repetition_penalty 1.2", False),
     ("--decode_strategy beam_search --num_beams 3", False)],
)  # fmt: skip
def test_what_turns_sampling_on(argv, sampling):
    assert parse(argv).do_sample is sampling


@pytest.mark.parametrize(
    "argv",
    ["--decode_strategy beam_search", "--decode_strategy greedy_search --num_beams 2",
     "--decode_strategy sampling --do_sample False", "--decode_strategy greedy_search --do_sample",
     "--decode_strategy sampling --num_beams 2", "--do_sample --num_beams 2", "--top_p 2",
     "--do_sample maybe"],
)  # fmt: skip
def test_contradictions_are_errors(argv):
    with pytest.raises(InputError):
        parse(argv)


def test_left_out_fields_are_set_by_the_command():
    assert parse("", exclude=("max_length",), max_length=5).max_length == 5
    with pytest.raises(InputError, match="max_length"):
        parse("--max_length 5", exclude=("max_length",))
