"""Worker: sums and gathers through shared memory, at random sizes and moments; then its last rank is killed.

Prints one JSON line per rank; `test_shared_memory.py` judges them and starts the ranks.
"""

import json
import logging
import os
import signal
import sys
import time

import numpy as np
import paddle

from paddle_glm.parallel import init_parallel
from paddle_glm.parallel.collectives import all_gather_last_axis, all_reduce, broadcast_array
from paddle_glm.parallel.group import ProcessGroup

CALLS = 120


def contribution(call: int, rank: int) -> np.ndarray:
    """What a global rank adds in a call; sizes are alike on all ranks, and some need several chunks."""
    size = int(2 ** np.random.default_rng(call).uniform(0, 18))
    return np.random.default_rng([call, rank]).standard_normal((2, size), dtype=np.float32)


def right_calls(group: ProcessGroup) -> int:
    """How many calls gave every bit of what they should."""
    ranks, delays = group.handle.ranks, np.random.default_rng(os.getpid())
    right = 0
    for call in range(CALLS):
        parts = [contribution(call, rank) for rank in ranks]
        if call % 10 == 0:
            time.sleep(delays.uniform(0, 0.005))
        mine = paddle.to_tensor(parts[group.rank])
        total = parts[0].copy()
        for part in parts[1:]:
            total += part
        found = [
            np.array_equal(all_reduce(mine.T, group).numpy(), total.T),
            np.array_equal(all_gather_last_axis(mine, group).numpy(), np.concatenate(parts, axis=-1)),
            int(broadcast_array(np.array([call + group.rank]), group)[0]) == call,
        ]
        right += all(found)
    return right


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    mesh = init_parallel(int(sys.argv[1]))
    out = {"shared": [group.shared is not None for group in (mesh.tensor, mesh.data)]}
    groups = [group for group in (mesh.tensor, mesh.data) if group.degree > 1]
    out["right"] = [right_calls(group) for group in groups]
    half = paddle.to_tensor(np.full([3], 0.1), dtype="float16")
    out["half"] = all_reduce(half, mesh.tensor).tolist()
    print("RESULT", json.dumps(out), flush=True)
    if mesh.tensor.shared is not None:
        if mesh.tensor.rank == mesh.tensor.degree - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        started = time.monotonic()
        try:
            all_reduce(paddle.ones([100_000]), mesh.tensor)
        except RuntimeError as error:
            print("RESULT", json.dumps({"error": str(error), "seconds": time.monotonic() - started}))
        sys.stdout.flush()
        os._exit(0)  # a group with a dead rank cannot be torn down


if __name__ == "__main__":
    main()
