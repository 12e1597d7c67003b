"""Running one step of the quick start in a subprocess."""

import os
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from paddle_glm.errors import InputError
from tools.quickstart.plan import NUM_PROCESSES, ROOT, QuickstartStep


def run_step(step: QuickstartStep, output: Path) -> float:
    """Run a step, show its output (for training, its losses), and return its duration in seconds.

    stderr goes to `log/NAME.log`. Raises `InputError` with the last lines of the log if the step fails.
    """
    print("  $ " + format_command(step.argv), flush=True)
    log = output / "log" / f"{step.name}.log"
    environment = dict(os.environ)
    if step.run_dir is not None:  # split the cores between the ranks; by default each uses all
        environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // NUM_PROCESSES, 1)))
    started = time.perf_counter()
    with log.open("wb") as errors:
        out = subprocess.PIPE if step.run_dir is None else errors
        process = subprocess.Popen(step.argv, stdout=out, stderr=errors, env=environment)
        try:
            if step.run_dir is None:
                _show_output(process)
            else:
                _show_losses(process, step.run_dir / "train_log.jsonl")
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()  # the launcher ends its ranks first
            raise
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise InputError(f"{step.name} failed with exit code {code}; the end of {log}:\n{tail}")
    seconds = round(time.perf_counter() - started, 1)
    print(f"  done in {seconds} s", flush=True)
    return seconds


def _show_output(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print("  " + line.decode("utf-8", errors="replace").rstrip(), flush=True)


def _show_losses(process: subprocess.Popen[bytes], train_log: Path) -> None:
    """Print losses while a training run is in progress."""
    from paddle_glm.training.loss_curve import read_log_records

    shown_step, ended = 0, False
    while not ended:
        try:
            process.wait(timeout=1)
            ended = True
        except subprocess.TimeoutExpired:
            pass
        records = read_log_records(train_log) if train_log.is_file() else []
        losses = [record for record in records if "loss" in record]
        for record in losses:
            # Every 50 steps, and the last one.
            due = record["step"] % 50 == 0 or (ended and record is losses[-1])
            if due and record["step"] > shown_step:
                shown_step = record["step"]
                print("  " + _format_progress(record), flush=True)


def _format_progress(record: Mapping[str, float]) -> str:
    """One line of text for a record of train_log.jsonl."""
    return f"step {record['step']:>4}  loss {record['loss']:.3f}  {record['tokens_per_second']:.0f} tokens/s"


def format_command(words: list[str]) -> str:
    """A command as typed in the checkout."""
    here = str(ROOT) + os.sep
    return shlex.join(word.removeprefix(here) for word in words)
