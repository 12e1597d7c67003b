"""The report: JSON for programs, text for people."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paddle_glm.doctor.registry import GROUPS
from paddle_glm.version import __version__

_MARKS = {"passed": "ok", "failed": "FAILED", "not applicable": "-"}


def make_report(device: str, quick: bool, results: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The whole report as a JSON value; "summary" counts the checks by status."""
    statuses = [result["status"] for _, result in results]
    report = {
        "report": "paddle-glm doctor",
        "version": __version__,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "device": device,
        "quick": quick,
        "summary": {status: statuses.count(status) for status in _MARKS},
        "checks": [{"name": name, **result} for name, result in results],
    }
    anonymous: dict[str, Any] = json.loads(
        json.dumps(report).replace(json.dumps(str(Path.home()))[1:-1], "~")
    )
    return anonymous


def line_of(name: str, result: dict[str, Any]) -> str:
    """One line: mark, name, and the reason or the measure nearest to its limit."""
    text = f"{_MARKS[result['status']]:<7} {name}"
    measures = result.get("measures", [])
    failed = [_measure(one) for one in measures if not one["passed"]]
    if result["status"] == "not applicable":
        return f"{text}: {result['reason']}"
    if "reason" in result:
        return f"{text}: {' '.join(result['reason'].split())[:400]}"
    shown = failed or [_measure(one) for one in measures[:3]]
    return f"{text}{': ' if shown else ''}{'; '.join(shown)}"


def _measure(one: dict[str, Any]) -> str:
    value = one["value"]
    text = f"{one['name']} {value if isinstance(value, str) else format(value, '.3g')}"
    if one["unit"]:
        text += f" {one['unit']}"
    if one["limit"] is not None:
        text += f" ({'at least' if one['at_least'] else 'limit'} {one['limit']:.3g})"
    return text


def as_text(report: dict[str, Any]) -> str:
    """All numbers and facts, by group."""
    lines = [f"{report['report']} {report['version']}, {report['device']}, {report['time']}", ""]
    for group in GROUPS:
        checks = [one for one in report["checks"] if one["group"] == group]
        if not checks:
            continue
        lines += [f"== {group}"]
        for one in checks:
            head = f"{_MARKS[one['status']]:<7} {one['name']} ({one['seconds']:.1f} s)"
            lines.append(f"{head}: {one['reason']}" if "reason" in one else head)
            lines += [
                f"          {'' if m['passed'] else 'FAILED '}{_measure(m)}" for m in one.get("measures", [])
            ]
            lines += [f"          {key}: {value}" for key, value in one.get("facts", {}).items()]
            lines += [f"        | {line.rstrip()}" for line in one.get("output", one.get("traceback", []))]
        lines.append("")
    return "\n".join([*lines, summary(report), ""])


def summary(report: dict[str, Any]) -> str:
    return ", ".join(f"{count} {status}" for status, count in report["summary"].items())
