"""Rules for the keys of other projects' JSON files: read into a field, restricted to values, or ignored."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_glm.errors import InputError


@dataclass(frozen=True)
class ValueType:
    """The values that a key may have, as a predicate and in words for error messages."""

    description: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Mapped:
    """The key is read into `field`, after `convert`. kind: the values accepted then."""

    field: str
    kind: ValueType
    convert: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Restricted:
    """Values other than `allowed` mean another computation and are refused.

    save_default: files that we write contain the first of `allowed`, since the original reads the key.
    """

    allowed: tuple[Any, ...]
    save_default: bool = True


@dataclass(frozen=True)
class Alias:
    """Another name of `key`; the two must agree."""

    key: str


@dataclass(frozen=True)
class Ignored:
    """Has no effect on outputs. default: value in files that we write, if the original needs the key."""

    reason: str
    default: Any = None


Rule = Mapped | Restricted | Alias | Ignored
Rules = Mapping[str, Rule]


def read_fields(rules: Rules, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Field -> value of the `Mapped` keys of a file. Null counts as absent; unknown keys are skipped.

    source: the file, for messages. Raises `InputError` for unsupported values.
    """
    fields: dict[str, Any] = {}
    for key, rule in rules.items():
        value = values.get(key)
        if value is None or isinstance(rule, Ignored):
            continue
        message = f"{source} says {key} = {value!r}"
        if isinstance(rule, Mapped):
            value = rule.convert(value) if rule.convert is not None else value
            if not rule.kind.accepts(value):
                raise InputError(f"{message}: expected {rule.kind.description}")
            fields[rule.field] = value
        elif isinstance(rule, Alias) and value != values.get(rule.key, value):
            raise InputError(f"{message}, but {rule.key} = {values[rule.key]!r}: expected the same")
        elif isinstance(rule, Restricted) and value not in rule.allowed:
            raise InputError(f"{message}; only {_describe_allowed(rule.allowed)} is supported")
    return fields


def default_keys(rules: Rules) -> dict[str, Any]:
    """{key: value} that a new file needs beside the keys mapped to fields."""
    defaults: dict[str, Any] = {}
    for key, rule in rules.items():
        if isinstance(rule, Restricted) and rule.save_default:
            defaults[key] = rule.allowed[0]
        elif isinstance(rule, Ignored) and rule.default is not None:
            defaults[key] = rule.default
    return defaults


def _describe_allowed(values: tuple[Any, ...]) -> str:
    return " or ".join(dict.fromkeys(repr(value) for value in values if value is not None)) or "null"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


POSITIVE_INT = ValueType("a positive integer", lambda value: _is_int(value) and value > 0)
POSITIVE_INT_OR_NULL = ValueType("a positive integer or null", POSITIVE_INT.accepts)
TOKEN_ID = ValueType("a token's id (one integer, 0 or above)", lambda value: _is_int(value) and value >= 0)
POSITIVE_NUMBER = ValueType("a number above 0", lambda value: _is_number(value) and value > 0)
FRACTION = ValueType("a number from 0 to below 1", lambda value: _is_number(value) and 0 <= value < 1)
BOOLEAN = ValueType("true or false", lambda value: isinstance(value, bool))
NUMBER = ValueType("a number", _is_number)


def one_of(*values: Any) -> ValueType:
    """One of `values`; true and false do not count as 1 and 0."""
    words = ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
    return ValueType(words, lambda value: value in values and not isinstance(value, bool))
