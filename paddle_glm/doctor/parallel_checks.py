"""Several processes on this machine against one: tensor and data parallelism, optimizer sharding."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.doctor.model_checks import GRADIENTS, LOGITS, check_half_precision
from paddle_glm.doctor.registry import Context, Finding, NotApplicable, check
from paddle_glm.doctor.tiny_models import FAMILIES, model_folder
from paddle_glm.doctor.training_checks import small_run, training_run
from paddle_glm.hardware import gpu_count
from paddle_glm.system import LINUX

_SECONDS = 100
_LAUNCHER_VARIABLES = ("PADDLE_TRAINER", "PADDLE_MASTER", "PADDLE_CURRENT", "PADDLE_LOCAL", "FLAGS_selected")


def ranks(context: Context, degree: int) -> int:
    """`degree`, if there are as many cards. Raises `NotApplicable` if not."""
    if not LINUX:
        raise NotApplicable("distributed runs need Linux")
    if context.device == "gpu" and gpu_count() < degree:
        raise NotApplicable(f"{gpu_count()} GPU is visible: it needs {degree}")
    return degree


def launch(context: Context, degree: int, job: dict[str, Any]) -> dict[str, Any]:
    """What rank 0 of `doctor.ranks` writes. Raises `RuntimeError` with the ranks' logs if they fail."""
    folder = context.folder / f"launch-{os.urandom(4).hex()}"
    folder.mkdir()
    answer = folder / "answer.json"
    devices = ["--gpus", ",".join(map(str, range(degree)))]
    if context.device == "cpu":
        devices = ["--nproc_per_node", str(degree)]
    words = [sys.executable, "-m", "paddle.distributed.launch", *devices, "--log_dir", str(folder / "logs")]
    script = Path(__file__).with_name("ranks.py")
    job = {**job, "device": context.device, "folder": str(context.folder), "answer": str(answer)}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_VARIABLES)
    }
    paths = [str(Path(__file__).parents[2]), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if context.device == "cpu":
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [*words, str(script), json.dumps(job)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode or not answer.is_file():
        logs = [
            path.read_text("utf-8", errors="replace")[-1500:]
            for path in sorted(folder.glob("logs/workerlog.*"))
        ]
        raise RuntimeError(
            f"the launcher ended with {done.returncode}:\n{done.stdout[-500:]}\n" + "\n".join(logs)
        )
    result: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return result


def tensor_parallel(degree: int, dtype: str, context: Context) -> Finding:
    """Logits and gradients of every family, the latter with sequence parallelism too."""
    check_half_precision(dtype)
    ranks(context, degree)
    for family in FAMILIES:
        model_folder(context.folder, family)
    answer = launch(context, degree, {"task": "tensor", "dtype": dtype, "families": FAMILIES})
    found = Finding()
    for family, errors in answer.items():
        for name, error in errors.items():
            limit = (LOGITS if name == "logits" else GRADIENTS)[dtype]
            found.measure(f"{family}: {name}", error, limit)
    return found


def data_parallel(stage: str, context: Context) -> Finding:
    """Three steps of two processes are those of one with twice the accumulation."""
    training_run()
    degree = ranks(context, 2)
    flags = "--per_device_train_batch_size 1 --max_steps 3"
    single = small_run(context, f"{flags} --gradient_accumulation_steps 2")
    sharding = f"--sharding {stage}" if stage else ""
    answer = launch(context, degree, {"task": "train", "flags": f"{flags} {sharding}"})
    found = Finding(facts={"norms of gradients": answer["norms"]})
    error = np.abs(np.array(answer["norms"]) / np.array(single.norms) - 1).max()
    found.measure("norms of gradients, to those of one process", error, 1e-4)
    return found


for _degree in (2, 4, 8):
    for _dtype in LOGITS:
        if _degree == 2 or _dtype == "bfloat16":
            check(
                "parallel",
                f"{_degree} tensor-parallel processes, {_dtype}",
                devices=("cpu", "gpu") if (_degree, _dtype) == (2, "float32") else ("gpu",),
                environment={"PADDLE_GLM_ARITHMETIC": "float32"} if _dtype == "float32" else {},
            )(partial(tensor_parallel, _degree, _dtype))
for _stage in ("", "stage1", "stage2", "stage3"):
    check(
        "parallel",
        f"2 data-parallel processes{f', sharding {_stage}' if _stage else ''}",
        devices=("cpu", "gpu") if _stage in ("", "stage3") else ("gpu",),
        slow=True,
    )(partial(data_parallel, _stage))
