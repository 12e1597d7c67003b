"""The quick start's flags, its run and its summary.

Each step runs in a process of its own, as the command that is printed.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddle_glm.commands.evaluate import format_table
from paddle_glm.errors import InputError
from paddle_glm.main import Parser, run_program
from paddle_glm.quantization.packing import BITS
from paddle_glm.system import LINUX
from tools.quickstart import plan as quickstart_plan
from tools.quickstart.runner import format_command, run_step

HELP = "run the whole chain once: data, training, merging, scores, export, answers"
MARKER_FILE = ".paddle_glm_quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", default="quickstart", help="output folder, recreated by each run")
    parser.add_argument("--data", help="folder of real rows (train and dev files) instead of generated ones")
    parser.add_argument(
        "--method",
        choices=quickstart_plan.METHODS,
        default="full",
        help="train all weights, or LoRA adapters or a prefix (P-Tuning v2) on a base model trained first",
    )
    parser.add_argument(
        "--quantization_bit",
        type=int,
        choices=sorted(BITS),
        help="quantise the trained model, or the base model of an adapter, to this many bits",
    )
    parser.add_argument("--max_steps", type=int, help="optimizer steps (default: from the files in configs/)")
    parser.add_argument("--eval_rows", type=int, default=100, help="number of held-out rows to evaluate")
    parser.add_argument("--setup_seconds", type=float, help=argparse.SUPPRESS)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and run; returns the exit codes of `paddle_glm.main.main`."""
    parser = Parser(prog="tools/quickstart.sh", description=HELP)
    add_arguments(parser)

    def work() -> int:
        run(parser.parse_args(argv))
        return 0

    return run_program(work)


def run(args: argparse.Namespace) -> None:
    """Run all steps and write `summary.json`. Raises `InputError` where a step fails."""
    if args.data and not Path(args.data).is_dir():
        raise InputError(f"--data {args.data}: expected a folder with train.json and dev.json")
    # By default, Python would exit at once and leave the current step running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.chdir(quickstart_plan.ROOT)
    plan = quickstart_plan.QuickstartPlan(
        Path(args.output_dir),
        args.data and Path(args.data),
        args.max_steps,
        args.eval_rows,
        args.method,
        args.quantization_bit,
    )
    recreate_output_dir(plan.output)
    seconds, left_out = run_plan(plan)
    if args.setup_seconds is not None:
        seconds = {"setup": args.setup_seconds, **seconds}
    cpp = {"left_out": left_out} if left_out else {"equal_answers": compare_answers(plan)}
    scores = {name: _read_json(plan.path(f"{name}/metrics.json")) for name in plan.evaluation_names}
    settings = {"method": plan.method, "quantization_bit": plan.bits}
    summary = json.dumps({**settings, "seconds": seconds, **scores, "cpp": cpp}, indent=2, ensure_ascii=False)
    Path(plan.path("summary.json")).write_text(summary + "\n", encoding="utf-8")
    print(format_summary(plan, seconds, scores, left_out))


def recreate_output_dir(folder: Path) -> None:
    """Create an empty folder with a marker file; raises `InputError` for an existing folder without one."""
    if folder.exists():
        if not (folder / MARKER_FILE).is_file():
            raise InputError(f"{folder} was not made by a quick start: move it, or give another --output_dir")
        shutil.rmtree(folder)
    (folder / "log").mkdir(parents=True)
    (folder / "answers").mkdir()
    (folder / MARKER_FILE).touch()


def run_plan(plan: quickstart_plan.QuickstartPlan) -> tuple[dict[str, float], str | None]:
    """Run all steps; returns the seconds of each, and the reason if the last ones were skipped."""
    steps = plan.steps()
    seconds: dict[str, float] = {}
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {step.name}: {step.purpose}", flush=True)
        try:
            seconds[step.name] = run_step(step, plan.output)
        except InputError as error:
            if not step.optional:
                raise
            rest = ", ".join(each.name for each in steps[number:])
            reason = f"{rest} left out: {error}"
            print("  " + reason.replace("\n", "\n  "), flush=True)
            return seconds, reason
        if step.name == "tiny":
            plan.write_questions()
    return seconds, None if LINUX else "build_cpp, cpp left out: the C++ program is built on Linux"


def compare_answers(plan: quickstart_plan.QuickstartPlan) -> int:
    """Print both programs' answers and return their number; raises `InputError` if they differ."""
    python, cpp = (
        _read_lines(plan.path(name)) for name in (quickstart_plan.PYTHON_ANSWERS, quickstart_plan.CPP_ANSWERS)
    )
    print("\nThe same questions to both programs", flush=True)
    for one, other in zip(python, cpp, strict=True):
        print(f"  问：    {one['src']}\n  Python：{one['output']}\n  C++：   {other['output']}\n", flush=True)
    differing = [
        one["src"] for one, other in zip(python, cpp, strict=True) if one["output"] != other["output"]
    ]
    if differing:
        raise InputError(
            f"the C++ program answers {len(differing)} of {len(python)} questions otherwise than Python: "
            f"{' '.join(differing)}"
        )
    print(f"  all {len(python)} answers are equal", flush=True)
    return len(python)


def format_summary(
    plan: quickstart_plan.QuickstartPlan,
    seconds: Mapping[str, float],
    scores: Mapping[str, Mapping[str, float]],
    left_out: str | None,
) -> str:
    """Durations, scores, files to look at, commands to continue with."""
    total = sum(seconds.values())
    times = [f"  {name:<12}{value:>8.1f} s" for name, value in [*seconds.items(), ("total", total)]]
    names = ("loss.png", "after/generated_predictions.txt", "answers/", "summary.json")
    sections = {
        "Time": times,
        "Scores on held-out rows": [f"  {line}" for line in format_table(scores).splitlines()],
        "To look at": [f"  {plan.path(name)}" for name in names],
        "To go on": [f"  {line}" for line in next_commands(plan, left_out is None)],
    }
    if left_out:
        sections["Left out"] = [f"  {line}" for line in left_out.splitlines()]
    return "\n".join(line for title, lines in sections.items() for line in ("", title, *lines))


def next_commands(plan: quickstart_plan.QuickstartPlan, with_cpp: bool) -> list[str]:
    """Commands to continue with."""
    question = shlex.quote(_read_json(plan.path(quickstart_plan.QUESTIONS_FILE))[0]["content"])

    def command(name: str, *words: str) -> str:
        return f"{format_command(quickstart_plan.program(name))} {' '.join(words)}"

    lines = [
        command("chat", *plan.model_flags),
        command("predict", *plan.model_flags, "--data_file YOUR_ROWS.json"),
        command("infer", "--model_path", plan.path("exported"), "--prompt", question),
    ]
    if with_cpp:
        lines.append(f"{quickstart_plan.CPP_PROGRAM} --model_dir {plan.path('exported')} --chat")
    lines += ["bash tools/quickstart.sh --data FOLDER_WITH_TRAIN_AND_DEV_JSON"]
    lines += ["bash tools/quickstart.sh --method lora --quantization_bit 4"]
    return [*lines, f"{format_command(quickstart_plan.program('--help'))}"]


def _read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _read_lines(path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
