"""How the processes of a run end: the first one last, since it serves the store that all meet in."""

import logging
import os
import sys

from paddle_glm.parallel.group import world_size


def exit_all_ranks(code: int = 0) -> None:
    """End this process of a finished run with `code`; returns where it is the only one.

    A process whose store has gone while it tears down may abort although all its work is done (seen in
    4 of 100 runs). So nothing is torn down: output is flushed, every other process says goodbye and
    ends, and the first one ends when all have.
    """
    if world_size() == 1:
        return
    import paddle.distributed as dist
    from paddle.base import core

    dist.barrier()
    store = core.create_or_get_global_tcp_store()
    rank = dist.get_rank()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if rank == 0:
        for other in range(1, dist.get_world_size()):
            store.wait(f"paddle_glm/left/{other}")
    else:
        store.set(f"paddle_glm/left/{rank}", "1")
    os._exit(code)
