"""`paddle-glm doctor`: checks this machine's numbers and speed, and writes a report to send."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from paddle_glm.doctor.registry import GROUPS
from paddle_glm.hardware import DEVICE_HELP

HELP = "check the numbers, speed and memory of this machine; writes a report to send"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out what takes long: memory and speed at the size of a 6B, data parallelism",
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--output", default="doctor-report", help="the report, as OUTPUT.json and OUTPUT.txt")


def run(args: argparse.Namespace) -> int:
    """0 if no check failed, otherwise 1."""
    from paddle_glm.doctor.report import as_text, line_of, make_report, summary
    from paddle_glm.doctor.runner import FOR_OTHERS, Runner

    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="paddle-glm-doctor-") as folder:
        runner = Runner(args.device, args.quick, Path(folder))
        for name, result in runner.results(args.only or GROUPS):
            results.append((name, result))
            if not result.get("reason", "").startswith(FOR_OTHERS):
                print(line_of(name, result), flush=True)
    report = make_report(runner.device, args.quick, results)
    for suffix, text in ((".json", json.dumps(report, indent=1) + "\n"), (".txt", as_text(report))):
        output.with_name(output.name + suffix).write_text(text, encoding="utf-8")
    print(
        f"\n{summary(report)}\n{output}.json and {output}.txt hold all numbers: send them with a question",
        flush=True,
    )
    if report["summary"]["failed"]:
        print("some checks failed: see docs/gpu.md", file=sys.stderr)
    return 1 if report["summary"]["failed"] else 0
