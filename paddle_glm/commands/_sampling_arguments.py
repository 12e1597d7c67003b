"""Sampling flags of all commands, made from the fields of `GenerationParams`."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.models.family import get_family
from paddle_glm.models.registry import family_names

# PaddleNLP's values of --decode_strategy.
STRATEGIES = ("greedy_search", "sampling", "beam_search")
GREEDY = GenerationParams(do_sample=False)
# Set from the tokenizer.
_TOKENIZER_FIELDS = ("eos_token_ids", "pad_token_id")
_SAMPLING_ONLY = {"temperature", "top_k", "top_p"}
_BEAM_SEARCH_ONLY = {"length_penalty", "early_stopping"}
BEAM_SEARCH_FIELDS = ("num_beams", *_BEAM_SEARCH_ONLY)  # the server's continuous batching has none


def boolean(text: str) -> bool:
    """Parse a boolean flag's value: `--flag`, `--flag True` and `--flag false`, as in PaddleNLP's scripts."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def add_sampling_arguments(
    parser: argparse.ArgumentParser, defaults: GenerationParams, exclude: Sequence[str] = ()
) -> None:
    """A flag for each field of `GenerationParams` except `exclude`, and `--decode_strategy`.

    Flags that are not given are absent from the namespace, so that `sampling_params` can use the model's
    defaults; `defaults` are those shown in the help text.
    """
    parser.add_argument(
        "--decode_strategy",
        choices=STRATEGIES,
        default=argparse.SUPPRESS,
        help="how each token is chosen (default: beam_search with --num_beams, sampling with --temperature, "
        f"--top_k or --top_p, else {'sampling' if defaults.do_sample else 'greedy_search'})",
    )
    for option in fields(GenerationParams):
        if option.name in (*_TOKENIZER_FIELDS, *exclude):
            continue
        default = getattr(defaults, option.name)
        kind: Any = boolean if isinstance(default, bool) else (int if default is None else type(default))
        optional: dict[str, Any] = {"nargs": "?", "const": True} if kind is boolean else {}
        shown = f"{'none' if default is None else default}{_family_defaults(option.name, defaults)}"
        text = f"{option.metadata['help']} (default: {shown})"
        parser.add_argument(f"--{option.name}", type=kind, default=argparse.SUPPRESS, help=text, **optional)


def _family_defaults(name: str, defaults: GenerationParams) -> str:
    """Help text for families whose `chat` has other defaults."""
    if not defaults.do_sample:
        return ""
    families = [
        family for family in map(get_family, family_names()) if name in family.chat_generation_defaults
    ]
    return "".join(f"; {family.title}: {family.chat_generation_defaults[name]}" for family in families)


def sampling_params(args: argparse.Namespace, defaults: GenerationParams, **values: Any) -> GenerationParams:
    """`defaults` with the flags that were given, then `values`; raises as `explicit_values` does."""
    return defaults.updated({**explicit_values(args, defaults), **values})


def check_sampling_flags(args: argparse.Namespace, params: GenerationParams) -> None:
    """Raise `InputError` for a flag without effect on generation with `params`."""
    for names, used, need in (
        (_SAMPLING_ONLY, params.do_sample, "sampling, which the other flags turn off"),
        (_BEAM_SEARCH_ONLY, params.num_beams > 1, "--num_beams above 1"),
    ):
        idle = [] if used else sorted(name for name in names if getattr(args, name, False) is not False)
        if idle:
            raise InputError(f"--{idle[0]} {getattr(args, idle[0])} has no effect here: it needs {need}")


def explicit_values(args: argparse.Namespace, defaults: GenerationParams) -> dict[str, Any]:
    """The values of the given flags, by fields of `GenerationParams`.

    Unless the flags set `do_sample` or `decode_strategy`, more than one beam turns sampling off and a flag
    of sampling alone turns it on. Raises `InputError` for contradictory flags.
    """
    names = [option.name for option in fields(GenerationParams) if option.name not in _TOKENIZER_FIELDS]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    strategy = getattr(args, "decode_strategy", None)
    beams = given.get("num_beams", defaults.num_beams)
    if strategy is not None and given.get("do_sample", strategy == "sampling") != (strategy == "sampling"):
        raise InputError(f"--decode_strategy {strategy} and --do_sample {given['do_sample']}: give one")
    if strategy == "beam_search" and beams < 2:
        raise InputError(f"--decode_strategy beam_search needs --num_beams of at least 2, not {beams}")
    if strategy == "greedy_search" and beams > 1:
        raise InputError(f"--num_beams {beams} is beam search, not greedy_search: leave one of them out")
    if strategy is not None:
        given["do_sample"] = strategy == "sampling"
    elif beams > 1:
        given.setdefault("do_sample", False)
    elif not _SAMPLING_ONLY.isdisjoint(given):
        given.setdefault("do_sample", True)
    return given
