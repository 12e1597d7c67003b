"""Process groups: tensor-parallel ranks shard one model, data-parallel ranks replicate it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paddle_glm import system
from paddle_glm.errors import InputError

if TYPE_CHECKING:
    from paddle_glm.parallel.shared_memory import SharedGroup


@dataclass(frozen=True)
class ProcessGroup:
    """Rank of this process in a group, number of ranks, and Paddle's group.

    `handle` is None at degree 1, where every collective is the identity. `shared`: on CPUs, where all ranks
    are on one machine that has the native kernels.
    """

    rank: int
    degree: int
    handle: Any = None
    shared: SharedGroup | None = None

    @property
    def src_rank(self) -> int:
        """Global rank of the group's rank 0."""
        return self.handle.ranks[0] if self.handle is not None else 0


SINGLE_PROCESS = ProcessGroup(0, 1)


@dataclass(frozen=True)
class Mesh:
    """World size = data degree x tensor degree; consecutive ranks shard one model."""

    tensor: ProcessGroup
    data: ProcessGroup


def world_size() -> int:
    """Number of processes that the launcher started; 1 without a launcher."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def check_degree(tensor_parallel_degree: int, num_processes: int) -> None:
    """Raise `InputError` if the processes cannot be divided into groups of this degree."""
    if tensor_parallel_degree < 1 or num_processes % tensor_parallel_degree:
        raise InputError(
            f"tensor_parallel_degree {tensor_parallel_degree} needs a multiple of {tensor_parallel_degree} "
            f"processes, but {num_processes} run: start with `python -m paddle.distributed.launch "
            f"--nproc_per_node {max(tensor_parallel_degree, 1)} ...` (CPU) or `--gpus` with as many cards"
        )


def init_parallel(tensor_parallel_degree: int | None = None) -> Mesh:
    """Initialise the process groups of the launched processes; gloo on CPU, NCCL on GPUs.

    tensor_parallel_degree: ranks per model; None: all processes. Without a launcher the mesh is 1 x 1.
    Raises `InputError` for a degree that does not divide the processes, and for several processes on a
    system other than Linux.
    """
    num_processes = world_size()
    degree = num_processes if tensor_parallel_degree is None else tensor_parallel_degree
    check_degree(degree, num_processes)
    if num_processes == 1:
        return Mesh(SINGLE_PROCESS, SINGLE_PROCESS)
    if not system.LINUX:
        raise InputError(
            f"{num_processes} processes were started, but distributed runs need Linux: elsewhere Paddle has "
            "neither gloo nor NCCL. Run the command without paddle.distributed.launch"
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
    # Every process must create every group, in the same order.
    for start in range(0, num_processes, degree):
        tensor = _new_group(list(range(start, start + degree)), rank) or tensor
    for offset in range(degree):
        data = _new_group(list(range(offset, num_processes, degree)), rank) or data
    return Mesh(tensor, data)


def _new_group(ranks: list[int], rank: int) -> ProcessGroup | None:
    """Create the group of `ranks`; None if `rank` is not in it, or is alone."""
    import paddle
    import paddle.distributed as dist

    if len(ranks) == 1:
        return None
    handle = dist.new_group(ranks)
    if rank not in ranks:
        return None
    shared = None
    if paddle.get_device() == "cpu":
        from paddle_glm.parallel.shared_memory import join_shared_group

        shared = join_shared_group(ranks.index(rank), handle)
    return ProcessGroup(ranks.index(rank), len(ranks), handle, shared)
