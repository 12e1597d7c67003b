"""Small results that all layers of a step ask for."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from paddle import Tensor

_Result = TypeVar("_Result")


def remember_last(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """A function that gives its last result again for the same tensors and equal other arguments."""
    last: tuple[tuple[Any, ...], _Result] | None = None

    @wraps(function)
    def remembering(*arguments: Any) -> _Result:
        nonlocal last
        if last is None or not all(map(_same, last[0], arguments)):
            last = arguments, function(*arguments)
        return last[1]

    return remembering


def _same(one: Any, other: Any) -> bool:
    return one is other or (not isinstance(one, Tensor) and bool(one == other))
