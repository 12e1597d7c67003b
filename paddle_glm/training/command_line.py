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
    LENGTHS,
    SIZES,
    DataArguments,
    FinetuneArguments,
    ModelArguments,
    check_sizes,
)

# THUDM's name -> ours.
ALIASES = {
    "max_source_length": "src_length",
    "max_target_length": "tgt_length",
    "predict_with_generate": "do_generation",
}


class _Parser(PdArgumentParser):
    """PaddleNLP's parser, with errors as `InputError` and no abbreviated names."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"finetune: {message}")


def _parser() -> _Parser:
    return _Parser(
        (ModelArguments, DataArguments, FinetuneArguments),
        prog="paddle-glm finetune",
        usage="%(prog)s [FILE.yaml|FILE.json] --model_name_or_path M --task_name_or_path D --output_dir O",
        description=__doc__,
        allow_abbrev=False,
    )


def known_names() -> set[str]:
    classes = (ModelArguments, DataArguments, FinetuneArguments)
    return {item.name for cls in classes for item in fields(cls) if item.init} | set(ALIASES)


def check_name(name: str, where: str) -> None:
    """Raise `InputError` with the nearest known name where `name` is none."""
    known = known_names()
    if name in known or (name.startswith("no_") and name[3:] in known):
        return
    if name == "gpus":
        raise InputError(f"{where}: {GPUS_HINT}")
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else " (see `paddle-glm finetune --help`)"
    raise InputError(f"{where}: unknown argument {name!r}{hint}")


def read_file(path: str | Path) -> list[str]:
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
        check_name(str(name), str(path))
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(str(item) for item in items)]
    return words


def _canonical(words: Sequence[str]) -> list[str]:
    """Words with names checked and aliases resolved; a negative number is no name."""
    result: list[str] = []
    for word in words:
        if not word.startswith("--"):
            result.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name != "help":
            check_name(name, "finetune")
        result.append(f"--{ALIASES.get(name, name)}{equals}{value}")
    return result


def _words(argv: Sequence[str]) -> list[str]:
    """Words with those of a file in front; raises `InputError` for names that are none and stray words."""
    words = list(argv)
    if words and words[0].endswith((".yaml", ".yml", ".json")):
        words = read_file(words[0]) + words[1:]
    canonical = _canonical(words)
    _, rest = _parser().parse_known_args(canonical)
    if rest:
        raise InputError(f"finetune: {' '.join(rest)!r} belongs to no argument")
    return canonical


def read_values(argv: Sequence[str]) -> tuple[ModelArguments, Namespace]:
    """What `argv` says, for a look at it: no process is joined, no device chosen.

    The namespace has all flags by name. Raises `InputError` as `parse` does for names and values.
    """
    values = _parser().parse_args(_words(argv))
    model = ModelArguments(**{item.name: getattr(values, item.name) for item in fields(ModelArguments)})
    model.check()
    check_sizes(values, (*SIZES, *LENGTHS))
    return model, values


def parse(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    """Arguments of `paddle-glm finetune`; raises `InputError` for anything that cannot be used.

    argv: words after the command; the first may be a YAML or JSON file, whose values the rest override.
    """
    words = _words(argv)
    model, data, training = _parser().parse_args_into_dataclasses(words, look_for_args_file=False)
    model.check()
    check_sizes(data, LENGTHS)
    return model, data, training
