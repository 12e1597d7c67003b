"""Random state as JSON: Python, NumPy, Paddle's CPU and device generators, and its RNG state tracker."""

import random
from typing import Any

import numpy as np
import paddle
from paddle.base import core
from paddle.distributed.fleet.meta_parallel.parallel_layers.random import get_rng_state_tracker


def rng_state() -> dict[str, Any]:
    """The state of all generators of this process, as JSON values."""
    python = random.getstate()
    numpy: Any = np.random.get_state()
    tracker = get_rng_state_tracker().get_states_tracker()
    return {
        "python": [python[0], list(python[1]), python[2]],
        "numpy": [numpy[0], numpy[1].tolist(), *numpy[2:]],
        "cpu": core.default_cpu_generator().get_state().__getstate__(),
        "device": _states_to_lists(paddle.get_rng_state()),
        "tracker": {name: _states_to_lists(states) for name, states in tracker.items()},
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned, in this process or an earlier one."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    core.default_cpu_generator().set_state(_states_from_lists([state["cpu"]])[0])
    paddle.set_rng_state(_states_from_lists(state["device"]))
    tracker = get_rng_state_tracker()
    tracker.set_states_tracker(
        {name: _states_from_lists(states) for name, states in state["tracker"].items()}
    )


def _states_to_lists(states: list[Any]) -> list[Any]:
    """Paddle's GeneratorState objects as tuples of integers and lists of them."""
    return [state.__getstate__() for state in states]


def _states_from_lists(states: list[Any]) -> list[Any]:
    kind = type(core.default_cpu_generator().get_state())
    restored = [kind.__new__(kind) for _ in states]
    for state, values in zip(restored, states, strict=True):
        state.__setstate__(tuple(values))
    return restored
