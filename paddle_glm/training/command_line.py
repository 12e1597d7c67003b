"""The command line of `finetune`: PaddleNLP's names, with THUDM's as aliases where its guides use them.

A YAML or JSON file may come first; what follows on the command line wins.
"""

import difflib
import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from paddlenlp.trainer import PdArgumentParser

from paddle_glm.errors import InputError
from paddle_glm.hardware import GPUS_HINT
from paddle_glm.training.arguments import (
    BATCH_SIZE_FLAGS,
    LENGTH_FLAGS,
    DataArguments,
    FinetuneArguments,
    ModelArguments,
    check_positive,
)
from paddle_glm.training.flag_requirements import check_flag_requirements, unmet_requirement

# THUDM's name -> ours.
ALIASES = {
    "max_source_length": "src_length",
    "max_target_length": "tgt_length",
    "predict_with_generate": "do_generation",
}

_CLASSES = (ModelArguments, DataArguments, FinetuneArguments)


class _Parser(PdArgumentParser):
    """PaddleNLP's parser, with errors as `InputError` and no abbreviated names."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"finetune: {message}")


def _parser() -> _Parser:
    return _Parser(
        _CLASSES,
        prog="paddle-glm finetune",
        usage="%(prog)s [FILE.yaml|FILE.json] --model_name_or_path M --task_name_or_path D --output_dir O",
        description=__doc__,
        allow_abbrev=False,
    )


def known_flag_names() -> set[str]:
    return {item.name for cls in _CLASSES for item in fields(cls) if item.init} | set(ALIASES)


def check_flag_name(name: str, where: str) -> None:
    """Raise `InputError` with the nearest known name where `name` is none."""
    known = known_flag_names()
    if name in known or (name.startswith("no_") and name[3:] in known):
        return
    if name == "gpus":
        raise InputError(f"{where}: {GPUS_HINT}")
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else " (see `paddle-glm finetune --help`)"
    raise InputError(f"{where}: unknown argument {name!r}{hint}")


def read_argument_file(path: str | Path) -> list[str]:
    """A YAML or JSON file of arguments as command line words, names checked.

    Raises `InputError` where the file is missing, is no mapping, or has an unknown key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a YAML or JSON file of arguments")
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except Exception as error:  # yaml's and json's errors have no common class
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping of argument names to values")
    words: list[str] = []
    for name, value in values.items():
        check_flag_name(str(name), str(path))
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(item) for item in items)]
    return words


def _normalize_flags(words: Sequence[str]) -> list[str]:
    """Words with names checked and aliases resolved; a negative number is no name."""
    result: list[str] = []
    for word in words:
        if not word.startswith("--"):
            result.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name != "help":
            check_flag_name(name, "finetune")
        result.append(f"--{ALIASES.get(name, name)}{equals}{value}")
    return result


def _split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a file that comes first, and those behind it.

    Raises `InputError` for names that are none and for stray words.
    """
    words = list(argv)
    recipe: list[str] = []
    if words and words[0].endswith((".yaml", ".yml", ".json")):
        recipe = _normalize_flags(read_argument_file(words.pop(0)))
    typed = _normalize_flags(words)
    _, rest = _parser().parse_known_args(recipe + typed)
    if rest:
        raise InputError(f"finetune: {' '.join(rest)!r} belongs to no argument")
    return recipe, typed


def _flag_names(words: Sequence[str]) -> list[str]:
    return [word[2:].partition("=")[0] for word in words if word.startswith("--")]


def _check_flag_requirements(recipe: list[str], typed: list[str]) -> None:
    """Raise `InputError` for flags without an effect; a recipe's may lose theirs to the command line."""
    known = {item.name for cls in _CLASSES for item in fields(cls)}  # the rest is --no_NAME, and off
    values = _parser().parse_args(recipe + typed)
    check_flag_requirements([name for name in _flag_names(typed) if name in known], values)
    alone = _parser().parse_args(["--model_name_or_path", "-", "--output_dir", "-", *recipe])
    left = [
        name for name in _flag_names(recipe) if name in known and unmet_requirement(name, values) is not None
    ]
    check_flag_requirements(left, alone)


def parse_without_setup(argv: Sequence[str]) -> tuple[ModelArguments, Namespace]:
    """What `argv` says, for a look at it: no process is joined, no device chosen.

    The namespace has all flags by name. Raises `InputError` as `parse_finetune_args` does for names and
    values.
    """
    recipe, typed = _split_argv(argv)
    values = _parser().parse_args(recipe + typed)
    model = ModelArguments(**{item.name: getattr(values, item.name) for item in fields(ModelArguments)})
    model.check()
    check_positive(values, (*BATCH_SIZE_FLAGS, *LENGTH_FLAGS))
    return model, values


def parse_finetune_args(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    """Arguments of `paddle-glm finetune`; raises `InputError` for anything that cannot be used.

    argv: words after the command; the first may be a YAML or JSON file, whose values the rest override.
    """
    recipe, typed = _split_argv(argv)
    _check_flag_requirements(recipe, typed)
    words = recipe + typed
    model, data, training = _parser().parse_args_into_dataclasses(words, look_for_args_file=False)
    model.check()
    data.check()
    return model, data, training
