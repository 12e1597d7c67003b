"""Random number generators for dropout under tensor parallelism.

Replicated activations need the same mask on every rank (Paddle's default generator), sharded activations a
different one (Paddle's tracker of named generator states).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle.distributed.fleet.layers.mpu.random import MODEL_PARALLEL_RNG, get_rng_state_tracker

from paddle_glm.parallel.group import ProcessGroup


def seed_group(seed: int, group: ProcessGroup) -> None:
    """Seed both generators: `seed` for replicated activations, a different seed per rank for sharded ones."""
    tracker = get_rng_state_tracker()
    tracker.reset()
    tracker.add(MODEL_PARALLEL_RNG, seed + 1 + group.rank)
    paddle.seed(seed)


@contextmanager
def sharded_rng(group: ProcessGroup) -> Iterator[None]:
    """A context in which random numbers differ between the ranks of the group."""
    tracker = get_rng_state_tracker()
    if group.degree == 1:
        yield
        return
    if MODEL_PARALLEL_RNG not in tracker.states_:
        seed_group(0, group)
    with tracker.rng_state(MODEL_PARALLEL_RNG):
        yield
