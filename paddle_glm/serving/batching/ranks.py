"""A model over all processes that the launcher started: rank 0 serves it, the others follow its calls."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.parallel import world_size

if TYPE_CHECKING:
    from paddle_glm.array_types import IntArray
    from paddle_glm.auto.engine import Engine
    from paddle_glm.parallel.calls import CallLeader

HANG_SECONDS = 45.0  # as finetune's --hang_timeout


def run_on_ranks(open_engine: Callable[[], "Engine"], run: Callable[[Callable[[], "Engine"]], None]) -> None:
    """Call `run` with what opens the engine; under the launcher on rank 0, while the other ranks follow.

    Every rank opens its part of the model with `open_engine`. All end when `run` returns, and when one fails;
    SIGTERM ends `run` as Ctrl-C does. Raises what both raise.
    """
    if world_size() == 1:
        run(open_engine)
        return
    from paddle.base import core
    from paddle.distributed import get_rank

    from paddle_glm.parallel.calls import CallLeader, connect_ranks, follow_calls
    from paddle_glm.parallel.shutdown import exit_in_order
    from paddle_glm.parallel.watchdog import watch_ranks

    with watch_ranks(HANG_SECONDS, "start the same command again") as watchdog:
        assert watchdog is not None
        connections = connect_ranks(get_rank(), world_size(), core.create_or_get_global_tcp_store())
        if watchdog.rank == 0:
            signal.signal(signal.SIGTERM, _Interrupt())
            leader = CallLeader(connections, watchdog)
            run(lambda: _led(open_engine(), leader))
            leader.close()
        else:
            backend = open_engine().backend
            # The launcher ends all ranks at once, but rank 0 finishes the running answers.
            for ending in (signal.SIGTERM, signal.SIGINT):
                signal.signal(ending, signal.SIG_IGN)
            follow_calls(connections[0], backend, watchdog)
    exit_in_order()


def _led(engine: "Engine", leader: "CallLeader") -> "Engine":
    """The engine, each of whose backend's calls the other ranks make too."""

    def own_values(values: "IntArray") -> "IntArray":
        return values

    # The other ranks have the same limit.
    assert isinstance(engine.backend, KVCacheBackend)
    local: dict[str, Callable[..., Any]] = {"broadcast": own_values}
    local["check_lengths_fit"] = engine.backend.check_lengths_fit
    local["reading_nbytes"] = engine.backend.reading_nbytes
    leader.announce(engine.backend, local)
    return engine


@dataclass
class _Interrupt:
    """Raises `KeyboardInterrupt` at the first signal: the launcher sends several."""

    raised: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.raised:
            self.raised = True
            raise KeyboardInterrupt
