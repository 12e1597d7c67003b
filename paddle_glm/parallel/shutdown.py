"""End a distributed run: rank 0 exits last, since it serves the TCPStore of all ranks."""

import logging
import os
import sys
from typing import NoReturn

from paddle_glm.parallel.group import world_size


def exit_all_ranks(code: int = 0) -> None:
    """Exit all ranks with `code`, rank 0 last, when all are here; no-op for one process."""
    if world_size() == 1:
        return
    import paddle.distributed as dist

    dist.barrier()
    exit_in_order(code)


def exit_in_order(code: int = 0) -> NoReturn:
    """Exit with `code`; rank 0 after all others, whose work must be done when it comes here.

    A rank that tears down after the store is gone may abort although its work is done (4 of 100 runs). So
    nothing is torn down: every rank flushes its output, the others report to the store and exit, and rank 0
    exits after all of them have reported.
    """
    import paddle.distributed as dist
    from paddle.base import core

    store = core.create_or_get_global_tcp_store()
    rank = dist.get_rank()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if rank == 0:
        for other in range(1, dist.get_world_size()):
            store.wait(f"paddle_glm/exited/{other}")
    else:
        store.set(f"paddle_glm/exited/{rank}", "1")
    os._exit(code)
