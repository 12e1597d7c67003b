"""Free memory, as the processes that share a model see it."""

import paddle

from paddle_glm.hardware import free_memory, local_world_size
from paddle_glm.kernels.library import isa
from paddle_glm.load_memory import MemoryBudget
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.group import ProcessGroup


def memory_budget(group: ProcessGroup) -> MemoryBudget:
    """Free memory of Paddle's current device: the minimum over the ranks of the group."""
    device = paddle.get_device()
    free = paddle.full([1], free_memory(device), dtype="int64")
    if group.handle is not None:
        free = all_reduce(free, group, paddle.distributed.ReduceOp.MIN)
    local_degree = local_world_size() if device == "cpu" else 1
    return MemoryBudget(
        device,
        int(free),
        group.degree,
        local_degree,
        is_leader=group.rank == 0,
        multiplies_half=device == "cpu" and isa() not in ("", "portable"),
    )
