"""What is made of each key of a foreign JSON file: read, held to what is supported, or left alone and why."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paddle_glm.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What a value must be: in words for messages, and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Honoured:
    """Read into our `field`. convert: the file's spelling -> ours."""

    field: str
    kind: Kind
    convert: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Only:
    """Any other value is another computation, and refused.

    written: a file of ours says the first of `allowed`, since the original reads the key.
    """

    allowed: tuple[Any, ...]
    written: bool = True


@dataclass(frozen=True)
class SameAs:
    """Another name of `key`: refused where the two differ."""

    key: str


@dataclass(frozen=True)
class Ignored:
    """Changes no answer. written: what a file of ours says, where the original cannot do without the key."""

    reason: str
    written: Any = None


Rule = Honoured | Only | SameAs | Ignored
Rules = Mapping[str, Rule]


def read(rules: Rules, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Our fields from a file's values; null is a key that is not there, and a key without a rule is unknown.

    source: what the file is called in messages. Raises `InputError` naming a key whose value is of the
    wrong kind or not supported.
    """
    found: dict[str, Any] = {}
    for key, rule in rules.items():
        value = values.get(key)
        if value is None or isinstance(rule, Ignored):
            continue
        says = f"{source} says {key} = {value!r}"
        if isinstance(rule, Honoured):
            value = rule.convert(value) if rule.convert is not None else value
            if not rule.kind.holds(value):
                raise InputError(f"{says}: expected {rule.kind.words}")
            found[rule.field] = value
        elif isinstance(rule, SameAs) and value != values.get(rule.key, value):
            raise InputError(f"{says}, but {rule.key} = {values[rule.key]!r}: expected the same")
        elif isinstance(rule, Only) and value not in rule.allowed:
            raise InputError(f"{says}; only {_either(rule.allowed)} is supported")
    return found


def written(rules: Rules) -> dict[str, Any]:
    """What a file made from nothing says of keys that are no field of ours."""
    said = {key: rule.allowed[0] for key, rule in rules.items() if isinstance(rule, Only) and rule.written}
    return said | {
        key: rule.written
        for key, rule in rules.items()
        if isinstance(rule, Ignored) and rule.written is not None
    }


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(dict.fromkeys(repr(value) for value in values if value is not None)) or "null"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


POSITIVE = Kind("a positive integer", lambda value: _whole(value) and value > 0)
POSITIVE_OR_NULL = Kind("a positive integer or null", POSITIVE.holds)
TOKEN = Kind("a token's id (one integer, 0 or above)", lambda value: _whole(value) and value >= 0)
ABOVE_ZERO = Kind("a number above 0", lambda value: _number(value) and value > 0)
SHARE = Kind("a number from 0 to below 1", lambda value: _number(value) and 0 <= value < 1)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _number)


def one_of(*values: Any) -> Kind:
    """One of some values, true and false being no numbers."""
    words = ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
    return Kind(words, lambda value: value in values and not isinstance(value, bool))
