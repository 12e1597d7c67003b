"""Processes with the environments of `paddle.distributed.launch`, for benchmarks that talk to them."""

import os
import socket
import subprocess
from contextlib import ExitStack


class Ranks:
    """Processes that do what a line of their standard input asks for; the first answers with a line."""

    def __init__(self, name: str, processes: list[subprocess.Popen[str]]) -> None:
        self.name, self.processes = name, processes

    def ask(self, line: str) -> str:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        """Raises `RuntimeError` if the first process has ended."""
        assert self.processes[0].stdout is not None
        line = self.processes[0].stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended early: run its worker by itself")
        return line

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()


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
