"""Runs checks in a process of its own: `python -m paddle_glm.doctor.worker DEVICE FOLDER [--quick]`.

The first line of standard output names the device and lists all checks; then each name on standard input is
answered by a line of what that check found. All lines are JSON. What else is printed goes to standard error.
"""

import json
import math
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paddle_glm.doctor.registry import Check, Context, NotApplicable


def run_check(check: Check, context: Context) -> dict[str, Any]:
    """{"status": "passed", "failed" or "not applicable", "seconds", and "measures", "facts" or "reason"}."""
    started = time.perf_counter()
    result: dict[str, Any]
    try:
        finding = check.function(context)
    except NotApplicable as reason:
        result = {"status": "not applicable", "reason": str(reason)}
    except Exception as error:  # whatever it is, the report tells it and the other checks go on
        traceback.print_exc()
        lines = traceback.format_exception(error)
        result = {"status": "failed", "reason": f"{type(error).__name__}: {error}", "traceback": lines[-6:]}
    else:
        passed = all(measure.passed for measure in finding.measures)
        measures = [asdict(measure) | {"passed": measure.passed} for measure in finding.measures]
        result = {"status": "passed" if passed else "failed", "measures": measures, "facts": finding.facts}
    return {**result, "seconds": round(time.perf_counter() - started, 2)}


def main() -> None:
    device, folder, *flags = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print

    def answer(value: Any) -> None:
        print(json.dumps(_without_nan(value), ensure_ascii=True), file=answers, flush=True)

    from paddle_glm.doctor.catalog import all_checks
    from paddle_glm.hardware import use_device

    checks = all_checks()
    context = Context(use_device(device).partition(":")[0], Path(folder), "--quick" in flags)
    names = ("group", "devices", "slow", "environment", "seconds")
    table = {name: {key: getattr(one, key) for key in names} for name, one in checks.items()}
    answer({"device": context.device, "checks": table})
    for line in sys.stdin:
        answer(run_check(checks[line.rstrip("\n")], context))


def _without_nan(value: Any) -> Any:
    """NaN and infinity as words: JSON has neither."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
