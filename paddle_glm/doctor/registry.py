"""What a check is, and the table of all checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The order of the report.
GROUPS = ("environment", "model", "quantisation", "operators", "training", "parallel", "speed")


class NotApplicable(Exception):
    """A check that says nothing on this machine; the message is the reason."""


@dataclass(frozen=True)
class Context:
    """What checks are given.

    device: "cpu" or "gpu". folder: for files of this run, shared by all checks; it may hold those of earlier
    ones. quick: leave out what takes long.
    """

    device: str
    folder: Path
    quick: bool = False


@dataclass(frozen=True)
class Measure:
    """A number that a check found.

    limit: the largest (with `at_least`, the smallest) that passes; None: any.
    """

    name: str
    value: float
    limit: float | None = None
    unit: str = ""
    at_least: bool = False

    @property
    def passed(self) -> bool:
        if self.limit is None:
            return True
        # NaN passes neither way.
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass
class Finding:
    """What a check found: numbers with their limits, and facts without."""

    measures: list[Measure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def measure(
        self, name: str, value: float, limit: float | None = None, unit: str = "", at_least: bool = False
    ) -> None:
        self.measures.append(Measure(name, float(value), limit, unit, at_least))


CheckFunction = Callable[[Context], Finding]


@dataclass(frozen=True)
class Check:
    """function: returns a `Finding`, or raises `NotApplicable`; any other exception is a failure.

    devices: where it applies. slow: left out by --quick. environment: variables of the process that runs it.
    seconds: after which that process is ended.
    """

    group: str
    name: str
    function: CheckFunction
    devices: tuple[str, ...] = ("cpu", "gpu")
    slow: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: int = 120


CHECKS: dict[str, Check] = {}


def check(group: str, name: str, **options: Any) -> Callable[[CheckFunction], CheckFunction]:
    """Put the decorated function into the table; options: the other fields of `Check`."""

    def add(function: CheckFunction) -> CheckFunction:
        assert group in GROUPS and name not in CHECKS, (group, name)
        CHECKS[name] = Check(group, name, function, **options)
        return function

    return add
