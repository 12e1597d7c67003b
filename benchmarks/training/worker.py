"""What all workers of `benchmarks/model.py` share: sizes, and steps on demand. Needs Python's library alone.

A worker is one process, or one per rank. It reads a line per round from standard input: the number of steps.
Rank 0 answers with the seconds that they took.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """A ChatGLM2, and the batch that a step takes."""

    layers: int
    hidden: int
    heads: int
    groups: int
    ffn: int
    vocab: int
    batch: int
    length: int


@dataclass(frozen=True)
class Job:
    """What a worker runs, as the JSON of its argument.

    threads: of each process. degree: number of tensor-parallel processes. port: a free one, for their
    rendezvous. new_tokens: 0 for training steps, else greedy decoding of so many.
    """

    sizes: Sizes
    threads: int
    degree: int
    rank: int
    port: int
    new_tokens: int

    @classmethod
    def from_arguments(cls) -> "Job":
        values = json.loads(sys.argv[1])
        return cls(**{**values, "sizes": Sizes(**values["sizes"])})


def serve(step: Callable[[], object], rank: int) -> None:
    """Warm up, then run steps until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    for _ in range(2):
        step()
    if rank == 0:
        print("ready", file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        if rank == 0:
            print(time.perf_counter() - start, file=answers, flush=True)
