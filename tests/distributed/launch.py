"""Run a worker script in real processes, as a user would: through `paddle.distributed.launch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def launch(
    script: str | Path, processes: int, log_dir: Path, *args: str, timeout: int = 600
) -> subprocess.CompletedProcess[str]:
    """The finished launcher; its output holds the workers' logs. The caller checks `returncode`."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "FLAGS_use_stride_kernel": "0",
    }
    for name in [key for key in environment if key.startswith("PADDLE_TRAINER")]:
        del environment[name]
    command = [
        *(sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)),
        *("--log_dir", str(log_dir), str(script), *args),
    ]
    done = subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        text=True,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for log in sorted(log_dir.glob("workerlog.*")):
        done.stdout += f"\n== {log.name}\n{log.read_text(errors='replace')}"
    return done


def finetune_in_turn(runs: list[dict], processes: int, log_dir: Path) -> subprocess.CompletedProcess[str]:
    """The finished `run_finetunes.py`, of runs {"flags": [...], "copy": (source, target) or absent}."""
    done = launch(Path(__file__).with_name("run_finetunes.py"), processes, log_dir, json.dumps(runs))
    assert done.returncode == 0, done.stdout
    return done
