"""Which processes hold the slices of one model, and which hold copies of it."""

import os
from dataclasses import dataclass
from typing import Any

from paddle_glm import system
from paddle_glm.errors import InputError


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share one model: this one's place, their number, and Paddle's group.

    `handle` is None at degree 1, where every operation over the group is the identity.
    """

    rank: int
    degree: int
    handle: Any = None

    @property
    def src_rank(self) -> int:
        """The global rank of the group's first process."""
        return self.handle.ranks[0] if self.handle is not None else 0


SINGLE_PROCESS = ProcessGroup(0, 1)


@dataclass(frozen=True)
class Mesh:
    """World size = data degree x tensor degree; neighbouring ranks share a model."""

    tensor: ProcessGroup
    data: ProcessGroup


def world_size() -> int:
    """Number of processes the launcher started; 1 without it."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def check_degree(tensor_parallel_degree: int, processes: int) -> None:
    """Raise `InputError` where `processes` cannot be divided into groups of that degree."""
    if tensor_parallel_degree < 1 or processes % tensor_parallel_degree:
        raise InputError(
            f"tensor_parallel_degree {tensor_parallel_degree} needs a multiple of {tensor_parallel_degree} "
            f"processes, but {processes} run: start with `python -m paddle.distributed.launch "
            f"--nproc_per_node {max(tensor_parallel_degree, 1)} ...` (CPU) or `--gpus` with as many cards"
        )


def init_parallel(tensor_parallel_degree: int | None = None) -> Mesh:
    """Join the processes that the launcher started; gloo on CPU, NCCL on GPUs.

    tensor_parallel_degree: processes per model; None takes all of them.
    Returns a mesh of degree 1 x 1 where no launcher is at work.
    """
    processes = world_size()
    degree = processes if tensor_parallel_degree is None else tensor_parallel_degree
    check_degree(degree, processes)
    if processes == 1:
        return Mesh(SINGLE_PROCESS, SINGLE_PROCESS)
    if not system.LINUX:
        raise InputError(
            f"{processes} processes were started, but several work together on Linux alone: elsewhere Paddle "
            "has neither gloo nor NCCL. Run the command without paddle.distributed.launch"
        )

    import paddle
    import paddle.distributed as dist

    from paddle_glm.parallel import gloo

    if paddle.get_device() == "cpu":
        gloo.patch_new_group()
    if not dist.is_initialized():
        dist.init_parallel_env()
    rank = dist.get_rank()
    tensor = data = SINGLE_PROCESS
    # Every process takes part in making every group, in the same order.
    for start in range(0, processes, degree):
        tensor = _new_group(list(range(start, start + degree)), rank) or tensor
    for offset in range(degree):
        data = _new_group(list(range(offset, processes, degree)), rank) or data
    return Mesh(tensor, data)


def _new_group(ranks: list[int], rank: int) -> ProcessGroup | None:
    """Make the group of `ranks`; this process's place in it, or None where it is outside."""
    import paddle.distributed as dist

    if len(ranks) == 1:
        return None
    handle = dist.new_group(ranks)
    return ProcessGroup(ranks.index(rank), len(ranks), handle) if rank in ranks else None
