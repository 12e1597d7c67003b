"""Tensor parallelism on public `paddle.distributed` calls: the same code on gloo and NCCL."""

from paddle_glm.parallel.group import (
    SINGLE_PROCESS,
    Mesh,
    ProcessGroup,
    check_degree,
    init_parallel,
    world_size,
)

__all__ = ["SINGLE_PROCESS", "Mesh", "ProcessGroup", "check_degree", "init_parallel", "world_size"]
