"""What this machine has: GPUs that Paddle can use, and memory that is free, containers' limits included.

Every command and `AutoModel` choose their device here.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from paddle_glm.errors import InputError

DEVICE_HELP = "auto (the GPU where there is one), cpu, gpu, or one GPU: gpu:1"
# What `python -m paddle.distributed.launch` tells its processes.
_SELECTED_GPUS_VARIABLE, _LOCAL_SIZE_VARIABLE = "FLAGS_selected_gpus", "PADDLE_LOCAL_SIZE"
GPUS_HINT = (
    "--gpus is a flag of the launcher and stands before the script: python -m paddle.distributed.launch "
    "--gpus 0,1 SCRIPT FLAGS; processes without GPUs are started by --nproc_per_node 2 in its place"
)


def parse_device(text: str, device_id: int | None = None) -> tuple[str, int | None]:
    """("auto", "cpu" or "gpu", the GPU's number where one is named); PyTorch's "cuda" means "gpu".

    device_id: the number, where `text` does not say. Raises `InputError` for anything else.
    """
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


def resolve_device(wanted: str = "auto", device_id: int | None = None) -> str:
    """Paddle's name of the device: "cpu", "gpu" (the launcher's choice, else the first) or "gpu:N".

    wanted: what `parse_device` reads. device_id: which GPU, where `wanted` does not say. Raises `InputError`
    for a GPU that is not there, and where the launcher hands out GPUs that Paddle does not see.
    """
    kind, number = parse_device(wanted, device_id)
    count = gpu_count()
    if kind == "auto":
        if not count and os.environ.get(_SELECTED_GPUS_VARIABLE):
            raise InputError(
                f"the launcher chose GPU {os.environ[_SELECTED_GPUS_VARIABLE]}, but {_no_gpu()}; "
                "on CPUs start "
                "with --nproc_per_node N and without --gpus and CUDA_VISIBLE_DEVICES"
            )
        kind = "gpu" if count else "cpu"
    if kind == "cpu":
        return "cpu"
    if not count:
        raise InputError(f"device {wanted}: {_no_gpu()}; give cpu (--device cpu) or leave it out")
    if number is not None and number >= count:
        raise InputError(
            f"device gpu:{number}: Paddle sees {count} GPU{'s' if count > 1 else ''}, gpu:0 to "
            f"gpu:{count - 1} (CUDA_VISIBLE_DEVICES names those that it may see)"
        )
    return "gpu" if number is None else f"gpu:{number}"


def use_device(wanted: str = "auto", device_id: int | None = None) -> str:
    """`resolve_device`, made Paddle's current device; returns its name, a GPU's with its number."""
    import paddle

    device = resolve_device(wanted, device_id)
    paddle.set_device(device)
    return str(paddle.get_device())


def _no_gpu() -> str:
    import paddle

    if paddle.is_compiled_with_cuda():
        return "Paddle sees no GPU (nvidia-smi lists the machine's, CUDA_VISIBLE_DEVICES may hide them)"
    return "this Paddle computes on CPUs only: install paddlepaddle-gpu to use a GPU"


def local_world_size() -> int:
    """Processes that the launcher started on this machine; 1 without it."""
    return int(os.environ.get(_LOCAL_SIZE_VARIABLE, "1"))


def free_memory(device: str = "cpu") -> int:
    """Bytes that this process may still take: of the machine ("cpu"), or of a GPU ("gpu:N")."""
    if device == "cpu":
        return free_cpu_memory()
    import paddle

    free, _ = paddle.cuda.mem_get_info(device)
    # Paddle keeps what was freed, for itself.
    kept = paddle.device.cuda.memory_reserved(device) - paddle.device.cuda.memory_allocated(device)
    return free + kept


def free_cpu_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that are free or can be made so, within the limits of the control groups around us.

    root: where `proc` and `sys` are.
    """
    meminfo = root / "proc/meminfo"
    text = meminfo.read_text("utf-8") if meminfo.is_file() else ""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    if found is None:  # no Linux
        import psutil

        return int(psutil.virtual_memory().available)
    return max(0, min([int(found[1]) * 1024, *_cgroup_free_bytes(root)]))


# What the two versions of control groups call a group's limit, its use, and droppable file pages in its stat.
_CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def _cgroup_free_bytes(root: Path) -> Iterator[int]:
    """What the memory group of this process and each one around it leave: limit - use + droppable pages."""
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


def _free_in_cgroup(group: Path, limit_file: str, use_file: str, droppable: tuple[str, ...]) -> int | None:
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
    return left + sum(int(stat.get(name, 0)) for name in droppable)
