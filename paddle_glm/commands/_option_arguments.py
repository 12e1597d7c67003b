"""Flags made from the options that backends declare (`paddle_glm.backends.options`)."""

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any

from paddle_glm.auto.backend import BACKENDS
from paddle_glm.auto.dygraph import DygraphOptions
from paddle_glm.backends.options import BackendOptions
from paddle_glm.errors import InputError


def add_option_arguments(
    parser: argparse.ArgumentParser,
    classes: Sequence[type[BackendOptions]],
    only: Collection[str] | None = None,
) -> None:
    """A flag for every option of these classes that the parser lacks; only: these names alone."""
    held = {action.dest for action in parser._actions}
    for one in (one for options in classes for one in fields(options)):
        if one.name in held or (only is not None and one.name not in only):
            continue
        held.add(one.name)
        values = dict(one.metadata)
        parser.add_argument(
            f"--{one.name}", default=one.default, **{**values, "type": _argument_type(values["type"])}
        )


def _argument_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` for argparse, which shows the message of an ArgumentTypeError alone."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    convert.__name__ = parse.__name__  # argparse says "invalid int value"
    return convert


def given_options(
    args: argparse.Namespace, classes: Collection[type[BackendOptions]] | None = None
) -> dict[str, Any]:
    """The flags that differ from their defaults, of the options in these classes (None: of every backend)."""
    if classes is None:
        classes = [entry.options for entry in BACKENDS.values()]
    options = [one for options in classes for one in fields(options)]
    values = {one.name: getattr(args, one.name, one.default) for one in options}
    return {one.name: values[one.name] for one in options if values[one.name] != one.default}


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    add_option_arguments(parser, [BackendOptions], only={"device"})


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model folder is loaded: its family and dtype, and what is put beside its weights."""
    own = {one.name for one in fields(DygraphOptions)} - {one.name for one in fields(BackendOptions)}
    add_option_arguments(parser, [DygraphOptions], only=own)
