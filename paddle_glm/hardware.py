"""Choosing the device and the number of CPU threads, and free memory, limits of containers included.

All device names of commands, backends and models are read here:

- `parse_device`: what a name means;
- `choose_device`: the device that this is for an engine with or without a GPU;
- `resolve_device`: the device that this is for Paddle here;
- `use_device`: the same, made Paddle's current device.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.system import usable_cpus

DEVICE_HELP = "auto (the GPU where there is one), cpu, gpu, or one GPU: gpu:1"
# Set by `python -m paddle.distributed.launch` for its processes.
_SELECTED_GPUS_VARIABLE, _LOCAL_SIZE_VARIABLE = "FLAGS_selected_gpus", "PADDLE_LOCAL_SIZE"
# Paddle sets this variable to 1 when it is imported without it, so it is read before that.
_OMP_NUM_THREADS = None if "paddle" in sys.modules else os.environ.get("OMP_NUM_THREADS")
GPUS_HINT = (
    "--gpus is a flag of the launcher and stands before the script: python -m paddle.distributed.launch "
    "--gpus 0,1 SCRIPT FLAGS; processes without GPUs are started by --nproc_per_node 2 in its place"
)


def device_name(device: Any) -> str:
    """The name in a device of any kind: a name, a GPU's number, or a place of Paddle's ("Place(gpu:0)")."""
    if isinstance(device, int):
        return f"gpu:{device}"
    return str(device).removeprefix("Place(").removesuffix(")")


def parse_device(device: Any, device_id: int | None = None) -> tuple[str, int | None]:
    """("auto", "cpu" or "gpu", the GPU's number or None); PyTorch's "cuda" means "gpu".

    device: anything that `device_name` reads. device_id: the number, where `device` does not say.
    Raises `InputError` for anything else.
    """
    text = device_name(device)
    found = re.fullmatch(r"(auto|cpu|gpu|cuda)(?::(\d+))?", text.strip().lower())
    if found is None or (found[2] is not None and found[1] in ("auto", "cpu")):
        raise InputError(f"device {text!r}: expected auto, cpu, gpu or gpu:N")
    number = device_id if found[2] is None else int(found[2])
    if number is not None and (number < 0 or device_id not in (None, number)):
        raise InputError(f"device {text} and device_id {device_id}: expected one number, from 0 on")
    return "gpu" if found[1] == "cuda" else found[1], number


def gpu_count() -> int:
    """GPUs that Paddle can use: 0 for its CPU package and where CUDA_VISIBLE_DEVICES hides them."""
    import paddle

    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def choose_device(device: Any, device_id: int | None, has_gpu: bool) -> tuple[str, int | None]:
    """("cpu" or "gpu", the GPU's number or None); has_gpu: whether "auto" can be the GPU."""
    kind, number = parse_device(device, device_id)
    return ("gpu" if has_gpu else "cpu") if kind == "auto" else kind, number


def resolve_device(device: Any = "auto", device_id: int | None = None) -> str:
    """Paddle's name of the device: "cpu", "gpu" (the launcher's choice, else the first) or "gpu:N".

    device, device_id: as for `parse_device`. Raises `InputError` for a GPU that is not there, and where the
    launcher assigns GPUs that Paddle does not see.
    """
    count = gpu_count()
    kind, number = choose_device(device, device_id, has_gpu=count > 0)
    selected = os.environ.get(_SELECTED_GPUS_VARIABLE)
    if selected and not count and parse_device(device)[0] == "auto":
        raise InputError(
            f"the launcher chose GPU {selected}, but {_no_gpu()}; on CPUs start with --nproc_per_node N and "
            "without --gpus and CUDA_VISIBLE_DEVICES"
        )
    if kind == "cpu":
        return "cpu"
    if not count:
        raise InputError(
            f"device {device_name(device)}: {_no_gpu()}; give cpu (--device cpu) or leave it out"
        )
    if number is not None and number >= count:
        raise InputError(
            f"device gpu:{number}: Paddle sees {count} GPU{'s' if count > 1 else ''}, gpu:0 to "
            f"gpu:{count - 1} (CUDA_VISIBLE_DEVICES names those that it may see)"
        )
    return "gpu" if number is None else f"gpu:{number}"


def use_device(device: Any = "auto", device_id: int | None = None, cpu_threads: int | None = None) -> str:
    """`resolve_device`, made Paddle's current device; returns its name, a GPU's with its number.

    cpu_threads: how many threads Paddle computes with on a CPU; None leaves it as it is (1 by default).
    """
    import paddle

    paddle.set_device(resolve_device(device, device_id))
    if cpu_threads is not None:
        paddle.base.core.set_num_threads(cpu_threads)
    return str(paddle.get_device())


def num_threads(requested: int = 0) -> int:
    """CPU threads to compute with: as requested; for 0, OMP_NUM_THREADS or all CPUs of this process."""
    return requested or int(_OMP_NUM_THREADS or 0) or usable_cpus()


def _no_gpu() -> str:
    import paddle

    if paddle.is_compiled_with_cuda():
        return "Paddle sees no GPU (nvidia-smi lists the machine's, CUDA_VISIBLE_DEVICES may hide them)"
    return "this Paddle computes on CPUs only: install paddlepaddle-gpu to use a GPU"


def local_world_size() -> int:
    """Processes that the launcher started on this machine; 1 without it."""
    return int(os.environ.get(_LOCAL_SIZE_VARIABLE, "1"))


def free_memory(device: str = "cpu") -> int:
    """Bytes that this process can still allocate on the machine ("cpu") or on a GPU ("gpu:N")."""
    if device == "cpu":
        return free_cpu_memory()
    import paddle

    free, _ = paddle.cuda.mem_get_info(device)
    # Paddle's allocator keeps freed memory for later tensors.
    kept = paddle.device.cuda.memory_reserved(device) - paddle.device.cuda.memory_allocated(device)
    return free + kept


def free_cpu_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that are available within the limits of this process's control groups.

    root: the folder that holds `proc` and `sys`.
    """
    meminfo = root / "proc/meminfo"
    text = meminfo.read_text("utf-8") if meminfo.is_file() else ""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    if found is None:  # no Linux
        import psutil

        return int(psutil.virtual_memory().available)
    return max(0, min([int(found[1]) * 1024, *_cgroup_free_bytes(root)]))


# Version of control groups -> files of the limit and the usage, and keys of reclaimable pages in memory.stat.
_CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _cgroup_free_bytes(root: Path) -> Iterator[int]:
    """limit - usage + reclaimable pages, of this process's memory group and of each group around it."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text("utf-8").splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        mounts: tuple[tuple[int, str], ...] = ()
        if controllers == "":
            mounts = (2, "sys/fs/cgroup"), (2, "sys/fs/cgroup/unified")
        elif "memory" in controllers.split(","):
            mounts = ((1, "sys/fs/cgroup/memory"),)
        for version, mount in mounts:
            top = root / mount
            own = top / path.lstrip("/")
            # In a container the path may be the host's, of which only the mounted top is there.
            for group in (own, *own.parents):
                left = _free_in_cgroup(group, *_CGROUP_FILES[version])
                if left is not None:
                    yield left
                if group == top:
                    break


def _free_in_cgroup(group: Path, limit_file: str, use_file: str, reclaimable: tuple[str, ...]) -> int | None:
    """None where the group sets no limit, or is not there."""
    try:
        limit = (group / limit_file).read_text("utf-8").strip()
        if limit == "max":
            return None
        left = int(limit) - int((group / use_file).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
    except (OSError, ValueError):
        stat = {}
    return left + sum(int(stat.get(name, 0)) for name in reclaimable)
