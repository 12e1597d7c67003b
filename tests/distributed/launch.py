"""Run a worker script in real processes, as a user would: through `paddle.distributed.launch`."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def launch_environment() -> dict[str, str]:
    """This process's, without what a launcher has set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_TRAINER")}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FLAGS_use_stride_kernel": "0"}


def launch_command(words: Sequence[str], processes: int, log_dir: Path) -> list[str]:
    """words: a script and its arguments."""
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    return [*launcher, "--log_dir", str(log_dir), *words]


def worker_logs(log_dir: Path) -> str:
    logs = sorted(log_dir.glob("workerlog.*"))
    return "".join(f"\n== {log.name}\n{log.read_text(errors='replace')}" for log in logs)


def launch(
    script: str | Path, processes: int, log_dir: Path, *args: str, timeout: int = 600
) -> subprocess.CompletedProcess[str]:
    """The finished launcher; its output holds the workers' logs. The caller checks `returncode`."""
    done = subprocess.run(
        launch_command([str(script), *args], processes, log_dir),
        env=launch_environment(),
        cwd=ROOT,
        text=True,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    done.stdout += worker_logs(log_dir)
    return done


def finetune_in_turn(runs: list[dict], processes: int, log_dir: Path) -> subprocess.CompletedProcess[str]:
    """The finished `run_finetunes.py`, of runs {"flags": [...], "copy": (source, target) or absent}."""
    done = launch(Path(__file__).with_name("run_finetunes.py"), processes, log_dir, json.dumps(runs))
    assert done.returncode == 0, done.stdout
    return done


@contextmanager
def serving(
    folder: Path, processes: int, log_dir: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The launcher of `tools/api.py` on a free port, and the server's address; ended by SIGTERM."""
    words = [str(ROOT / "tools/api.py"), "--model_path", str(folder), "--port", "0", *flags]
    process = subprocess.Popen(
        launch_command(words, processes, log_dir),
        env=launch_environment(),
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = log_dir / "workerlog.0"
    try:
        while not (found := re.search(r"(http://\S+)/v1 \(Ctrl-C", log.read_text() if log.exists() else "")):
            assert process.poll() is None, worker_logs(log_dir)
            time.sleep(0.1)
        yield process, found[1]
    finally:
        process.terminate()
        process.wait(timeout=120)
