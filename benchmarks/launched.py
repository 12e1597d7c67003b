"""Environments of processes as `paddle.distributed.launch` starts them, for benchmarks that talk to them."""

import os
import socket
from contextlib import ExitStack


def launched_environments(degree: int, threads: int) -> list[dict[str, str]]:
    """One per rank, with ports of 127.0.0.1 that are free now. threads: of each process."""
    master, *ports = _free_ports(1 + degree)
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    return [
        {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PADDLE_MASTER": f"127.0.0.1:{master}",
            "PADDLE_TRAINERS_NUM": str(degree),
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        for rank in range(degree)
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
