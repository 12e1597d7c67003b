"""Device and CPU thread selection, and free memory, including the limits of containers.

Device names of commands, backends and models are read here:

- `parse_device`: parse a name;
- `choose_device`: the device for an engine with or without GPU support;
- `resolve_device`: Paddle's name of the device on this machine;
- `use_device`: make it Paddle's current device.
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
# Importing Paddle sets the variable to 1 if it is unset, so it is read before.
_OMP_NUM_THREADS = None if "paddle" in sys.modules else os.environ.get("OMP_NUM_THREADS")
GPUS_HINT = (
    "--gpus is a flag of the launcher and goes before the script: python -m paddle.distributed.launch "
    "--gpus 0,1 SCRIPT FLAGS; to start processes without GPUs, use --nproc_per_node 2 instead"
)


def device_name(device: Any) -> str:
    """The name of a device given as a name, a GPU's number or a Paddle place ("Place(gpu:0)")."""
    if isinstance(device, int):
        return f"gpu:{device}"
    return str(device).removeprefix("Place(").removesuffix(")")


def parse_device(device: Any, device_id: int | None = None) -> tuple[str, int | None]:
    """("auto", "cpu" or "gpu", the GPU's number or None); PyTorch's "cuda" means "gpu".

    device: as in `device_name`. device_id: the number, if `device` has none. Raises `InputError` for
    anything else.
    """
    text = device_name(device)
    match = re.fullmatch(r"(auto|cpu|gpu|cuda)(?::(\d+))?", text.strip().lower())
    if match is None or (match[2] is not None and match[1] in ("auto", "cpu")):
        raise InputError(f"device {text!r}: expected auto, cpu, gpu or gpu:N")
    number = device_id if match[2] is None else int(match[2])
    if number is not None and (number < 0 or device_id not in (None, number)):
        raise InputError(f"device {text} and device_id {device_id}: expected one number, from 0 on")
    return "gpu" if match[1] == "cuda" else match[1], number


def gpu_count() -> int:
    """Number of GPUs that Paddle can use; 0 without CUDA, or if CUDA_VISIBLE_DEVICES hides them."""
    import paddle

    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def choose_device(device: Any, device_id: int | None, has_gpu: bool) -> tuple[str, int | None]:
    """("cpu" or "gpu", the GPU's number or None). has_gpu: "auto" selects the GPU."""
    kind, number = parse_device(device, device_id)
    return ("gpu" if has_gpu else "cpu") if kind == "auto" else kind, number


def resolve_device(device: Any = "auto", device_id: int | None = None) -> str:
    """Paddle's name of the device: "cpu", "gpu" (the launcher's choice, else the first) or "gpu:N".

    device, device_id: as in `parse_device`. Raises `InputError` for a GPU that does not exist, and if the
    launcher assigned a GPU that Paddle does not see.
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
            f"gpu:{count - 1} (CUDA_VISIBLE_DEVICES selects the visible ones)"
        )
    return "gpu" if number is None else f"gpu:{number}"


def use_device(device: Any = "auto", device_id: int | None = None, cpu_threads: int | None = None) -> str:
    """Make the device of `resolve_device` Paddle's current one; return its name, with a GPU's number.

    cpu_threads: number of threads of Paddle's CPU operators; None: unchanged (1 by default).
    """
    import paddle

    paddle.set_device(resolve_device(device, device_id))
    if cpu_threads is not None:
        paddle.base.core.set_num_threads(cpu_threads)
    return str(paddle.get_device())


def num_threads(requested: int = 0) -> int:
    """Number of CPU threads: `requested`; for 0, OMP_NUM_THREADS or all CPUs of this process.

    Processes that the launcher started share the CPUs.
    """
    return requested or int(_OMP_NUM_THREADS or 0) or max(1, usable_cpus() // local_world_size())


def _no_gpu() -> str:
    import paddle

    if paddle.is_compiled_with_cuda():
        return "Paddle sees no GPU (nvidia-smi lists the machine's GPUs, CUDA_VISIBLE_DEVICES may hide them)"
    return "this Paddle supports CPUs only: install paddlepaddle-gpu to use a GPU"


def local_world_size() -> int:
    """Number of processes that the launcher started on this machine; 1 without a launcher."""
    return int(os.environ.get(_LOCAL_SIZE_VARIABLE, "1"))


def free_memory(device: str = "cpu") -> int:
    """Bytes that this process can still allocate on "cpu" or "gpu:N"."""
    if device == "cpu":
        return free_cpu_memory()
    import paddle

    free, _ = paddle.cuda.mem_get_info(device)
    # Paddle keeps freed memory reserved for itself.
    reserved = paddle.device.cuda.memory_reserved(device) - paddle.device.cuda.memory_allocated(device)
    return free + reserved


def free_cpu_memory(root: Path = Path("/")) -> int:
    """Available bytes of memory, within the limits of this process's control groups.

    root: folder that contains `proc` and `sys`.
    """
    meminfo = root / "proc/meminfo"
    text = meminfo.read_text("utf-8") if meminfo.is_file() else ""
    match = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    if match is None:  # not Linux
        import psutil

        return int(psutil.virtual_memory().available)
    return max(0, min([int(match[1]) * 1024, *_cgroup_free_bytes(root)]))


# cgroup version -> files with limit and usage, and the keys of reclaimable file pages in memory.stat.
_CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _cgroup_free_bytes(root: Path) -> Iterator[int]:
    """limit - usage + reclaimable pages of this process's memory cgroup and of each of its parents."""
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
            # In a container the path may be the host's, of which only the mounted top exists.
            for group in (own, *own.parents):
                free = _free_in_cgroup(group, *_CGROUP_FILES[version])
                if free is not None:
                    yield free
                if group == top:
                    break


def _free_in_cgroup(
    group: Path, limit_file: str, usage_file: str, reclaimable: tuple[str, ...]
) -> int | None:
    """None if the group has no limit or does not exist."""
    try:
        limit = (group / limit_file).read_text("utf-8").strip()
        if limit == "max":
            return None
        free = int(limit) - int((group / usage_file).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
    except (OSError, ValueError):
        stat = {}
    return free + sum(int(stat.get(name, 0)) for name in reclaimable)
