"""The command line of `finetune`: PaddleNLP's names, and THUDM's as aliases.

A YAML or JSON file of arguments may come first; flags after it override its values.
"""

import difflib
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from paddle_glm.errors import InputError
from paddle_glm.hardware import GPUS_HINT
from paddle_glm.training.arguments import DataArguments, FinetuneArguments
from paddle_glm.training.flag_fields import FLAG_GROUPS, FlagParser
from paddle_glm.training.flag_requirements import (
    UNSUPPORTED_FLAGS,
    check_flag_requirements,
    check_supported,
    unmet_requirement,
)
from paddle_glm.training.model_arguments import ModelArguments

# THUDM's name -> ours.
ALIASES = {
    "max_source_length": "src_length",
    "max_target_length": "tgt_length",
    "predict_with_generate": "do_generation",
}

_CLASSES = (ModelArguments, DataArguments, FinetuneArguments)
_Arguments = TypeVar("_Arguments", ModelArguments, DataArguments, FinetuneArguments)


def build_parser(
    prog: str = "paddle-glm finetune",
    usage: str = "%(prog)s [FILE.yaml|FILE.json] --model_name_or_path M --task_name_or_path D --output_dir O",
    description: str = "Finetune a model. A YAML or JSON file of arguments may come first; flags override it",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> FlagParser:
    """The parser of the supported flags, under the headings of `FLAG_GROUPS`.

    defaults: {flag: value} instead of the dataclasses'.
    """
    names = {name: alias for alias, name in ALIASES.items()}
    options = {"prog": prog, "usage": usage, "description": description}
    return FlagParser(_CLASSES, FLAG_GROUPS, names, defaults, **options)


def _supported_flag_names() -> set[str]:
    return {item.name for cls in _CLASSES for item in fields(cls)}


def known_flag_names() -> set[str]:
    """All flags that have a meaning, among them those that are refused (`UNSUPPORTED_FLAGS`)."""
    return _supported_flag_names() | set(ALIASES) | set(UNSUPPORTED_FLAGS)


def check_flag_name(name: str, where: str) -> None:
    """Raise `InputError` with the nearest known name where `name` is none."""
    known = known_flag_names()
    if name in known or (name.startswith("no_") and name[3:] in known):
        return
    if name == "gpus":
        raise InputError(f"{where}: {GPUS_HINT}")
    near = difflib.get_close_matches(name, sorted(known - set(UNSUPPORTED_FLAGS)), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else " (see `paddle-glm finetune --help`)"
    raise InputError(f"{where}: unknown argument {name!r}{hint}")


def read_argument_file(path: str | Path) -> list[str]:
    """A YAML or JSON file of arguments as `--name value ...`, names checked.

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
    argv: list[str] = []
    for name, value in values.items():
        check_flag_name(str(name), str(path))
        if value is None:
            continue
        items = value if isinstance(value, list) else [value]
        argv += [f"--{name}", *(str(item) for item in items)]
    return argv


def _normalize_flags(argv: Sequence[str]) -> list[str]:
    """`argv` with names checked, aliases resolved, and unsupported flags at their defaults left out."""
    result: list[str] = []
    for word in argv:
        if not word.startswith("--"):
            result.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name != "help":
            check_flag_name(name, "finetune")
        result.append(f"--{ALIASES.get(name, name)}{equals}{value}")
    return check_supported(result)


def _split_argv(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a file that comes first, and those after it.

    Raises `InputError` for unknown names and for values without a flag.
    """
    flags = list(argv)
    file_argv: list[str] = []
    if flags and flags[0].endswith((".yaml", ".yml", ".json")):
        file_argv = _normalize_flags(read_argument_file(flags.pop(0)))
    cli_argv = _normalize_flags(flags)
    _, rest = build_parser().parse_known_args(file_argv + cli_argv)
    if rest:
        raise InputError(f"finetune: {' '.join(rest)!r} belongs to no argument")
    return file_argv, cli_argv


def _flag_names(argv: Sequence[str]) -> list[str]:
    """The flags of `argv`, but for `--no_NAME`, which turns one off and needs nothing."""
    names = [word[2:].partition("=")[0] for word in argv if word.startswith("--")]
    return [name for name in names if name in _supported_flag_names()]


def _check_flag_requirements(file_argv: list[str], cli_argv: list[str], values: Namespace) -> None:
    """Raise `InputError` for flags without an effect; a file's may lose theirs to the command line."""
    check_flag_requirements(_flag_names(cli_argv), values)
    file_values = build_parser().parse_args(["--model_name_or_path", "-", "--output_dir", "-", *file_argv])
    without_effect = [name for name in _flag_names(file_argv) if unmet_requirement(name, values) is not None]
    check_flag_requirements(without_effect, file_values)


def _dataclass_of(cls: type[_Arguments], values: Namespace) -> _Arguments:
    return cls(**{item.name: getattr(values, item.name) for item in fields(cls)})


def parse_finetune_args(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, FinetuneArguments]:
    """Arguments of `paddle-glm finetune`; raises `InputError` for anything that cannot be used.

    Nothing is set up: `training.initialize.initialize_training` does that.

    argv: what follows the command; the first may be a YAML or JSON file, whose values the rest override.
    """
    file_argv, cli_argv = _split_argv(argv)
    values = build_parser().parse_args(file_argv + cli_argv)
    _check_flag_requirements(file_argv, cli_argv, values)
    model = _dataclass_of(ModelArguments, values)
    data = _dataclass_of(DataArguments, values)
    training = _dataclass_of(FinetuneArguments, values)
    model.check()
    data.check()
    training.check()
    return model, data, training
