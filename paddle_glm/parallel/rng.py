"""Dropout across the processes of a group.

What every process holds a copy of must be dropped alike; what is cut over the group must not be.
Paddle's own generator serves the former, Paddle's tracker of named states the latter.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle.distributed.fleet.layers.mpu.random import (
    MODEL_PARALLEL_RNG,
    get_rng_state_tracker,
)

from paddle_glm.parallel.group import ProcessGroup


def seed_group(seed: int, group: ProcessGroup) -> None:
    """Seed both generators: `seed` for what is replicated, a number of its own per rank for what is cut."""
    tracker = get_rng_state_tracker()
    tracker.reset()
    tracker.add(MODEL_PARALLEL_RNG, seed + 1 + group.rank)
    paddle.seed(seed)


@contextmanager
def sharded_rng(group: ProcessGroup) -> Iterator[None]:
    """Random numbers inside differ from rank to rank of the group."""
    tracker = get_rng_state_tracker()
    if group.degree == 1:
        yield
        return
    if MODEL_PARALLEL_RNG not in tracker.states_:
        seed_group(0, group)
    with tracker.rng_state(MODEL_PARALLEL_RNG):
        yield
