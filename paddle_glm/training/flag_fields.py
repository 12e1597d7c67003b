"""Dataclass fields that are command line flags, and an argparse parser made of them."""

import argparse
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from paddle_glm.errors import InputError

# The headings of `finetune --help`, in order.
TASK, MODEL, ADAPTERS, DATA = "task", "model", "adapters (P-Tuning v2, LoRA)", "data"
PARALLELISM, OPTIMISATION = "parallelism and precision", "optimisation"
CHECKPOINTS, LOGGING = "checkpoints", "evaluation and logging"
FLAG_GROUPS = (TASK, MODEL, ADAPTERS, DATA, PARALLELISM, OPTIMISATION, CHECKPOINTS, LOGGING)

_METAVARS = {int: "N", float: "X", bool: "BOOL"}
_TRUE, _FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")


def flag(group: str, default: Any, text: str, **options: Any) -> Any:
    """A dataclass field with its heading and help text.

    text: says the default itself where that is None. options: argparse's `metavar`, `choices`, `nargs`,
    `const`.
    """
    return field(default=default, metadata={"group": group, "help": text, **options})


def required_flag(group: str, text: str, **options: Any) -> Any:
    """A field without a default."""
    return field(metadata={"group": group, "help": text, **options})


def parse_bool(text: str) -> bool:
    """Raises `argparse.ArgumentTypeError` for anything but true/false, yes/no, t/f, y/n, 1/0."""
    if text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


class FlagParser(argparse.ArgumentParser):
    """Flags of dataclasses under the headings of `groups`; errors are `InputError`.

    aliases: {field: other name}. defaults: values in place of the fields'.
    """

    def __init__(
        self,
        classes: Iterable[type],
        groups: Iterable[str],
        aliases: Mapping[str, str],
        defaults: Mapping[str, Any] = types.MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(allow_abbrev=False, **options)
        sections = {title: self.add_argument_group(title) for title in groups}
        for cls in classes:
            hints = get_type_hints(cls)
            for item in fields(cls):
                names = [item.name, *([aliases[item.name]] if item.name in aliases else [])]
                default = defaults.get(item.name, item.default)
                _add_flag(sections[item.metadata["group"]], names, item, hints[item.name], default)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog.split()[-1]}: {message}")


def _add_flag(section: Any, names: list[str], item: "Field[Any]", hint: Any, default: Any) -> None:
    options = {key: value for key, value in item.metadata.items() if key != "group"}
    kind = hint
    if get_origin(hint) in (Union, types.UnionType):
        kind = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
        options["nargs"] = "+"
    if kind is bool:
        options |= {"nargs": "?", "const": True}
    if "choices" not in options:
        options.setdefault("metavar", _METAVARS.get(kind))
    options["type"] = parse_bool if kind is bool else kind
    if default is MISSING:
        options["required"] = True
        options["help"] += " (required)"
    else:
        options["default"] = default
        if default not in (None, ""):
            options["help"] += f" (default: {f'{float(default):g}' if kind is float else default})"
    options["help"] = options["help"].replace("%", "%%")
    section.add_argument(*(f"--{name}" for name in names), dest=item.name, **options)
    if default is True:
        opposite = f"no_{item.name}"
        section.add_argument(f"--{opposite}", dest=item.name, action="store_false", help=argparse.SUPPRESS)
