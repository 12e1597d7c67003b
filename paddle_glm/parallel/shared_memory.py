"""Sums and gathers of ranks on one machine, through memory that they share; see csrc/shared_group.h.

One row of 4096 numbers takes gloo longer than a process takes to compute it, and a decoded token needs two
such sums per layer.
"""

import logging
import math
import os
import secrets
import time
from ctypes import CDLL
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.kernels.library import kernel_library
from paddle_glm.system import create_shared_file, is_byte_locked, lock_byte, open_shared_file

logger = logging.getLogger(__name__)

# A rank may save a checkpoint while the others wait for it. Whether a rank has ended is looked at in between.
TIMEOUT_SECONDS = 1800.0
_PATIENCE_MICROSECONDS = 200_000


class SharedGroup:
    """The ranks of a group that share memory. All must make the same calls, in the same order."""

    def __init__(self, library: CDLL, descriptor: int, rank: int, degree: int) -> None:
        """library: of the kernels. descriptor: of the group's file, kept open.

        Raises `OSError` if the file cannot be mapped.
        """
        self._library = library
        self._descriptor, self.rank, self.degree = descriptor, rank, degree
        self._handle = self._library.paddle_glm_shared_group(descriptor, rank, degree)
        if not self._handle:
            raise OSError("the memory cannot be mapped")
        lock_byte(descriptor, rank)

    def sum(self, x: Tensor) -> Tensor:
        """float32 tensors of one shape, added in the order of ranks: all ranks get the same bits.

        Raises `RuntimeError` if a rank has ended, or does not come for `TIMEOUT_SECONDS`.
        """
        total = x.contiguous().clone()
        memory = total.data_ptr()
        self._exchange(self._library.paddle_glm_shared_sum, memory, memory, math.prod(total.shape))
        return total

    def gather(self, x: Tensor) -> Tensor:
        """[...] of any dtype -> [degree, ...], in the order of ranks. Raises as `sum` does."""
        x = x.contiguous()
        parts = paddle.empty([self.degree, *x.shape], dtype=x.dtype)
        nbytes = math.prod(x.shape) * x.element_size()
        self._exchange(self._library.paddle_glm_shared_gather, x.data_ptr(), parts.data_ptr(), nbytes)
        return parts

    def gather_array(self, x: Array) -> Array:
        """`gather` for a NumPy array."""
        x = np.ascontiguousarray(x)
        parts = np.empty((self.degree, *x.shape), dtype=x.dtype)
        self._exchange(self._library.paddle_glm_shared_gather, x.ctypes.data, parts.ctypes.data, x.nbytes)
        return parts

    def _exchange(self, function: Any, source: int, target: int, size: int) -> None:
        started, ended = time.monotonic(), None
        while (missing := function(self._handle, source, target, size, _PATIENCE_MICROSECONDS)) >= 0:
            if missing == ended:
                problem = "has ended: its output says why"
            elif time.monotonic() - started > TIMEOUT_SECONDS:
                problem = f"did not come for {TIMEOUT_SECONDS:.0f} s"
            else:
                # A rank may end after it gave its part, so one that has ended is asked once more.
                ended = None if is_byte_locked(self._descriptor, missing) else missing
                continue
            raise RuntimeError(
                f"rank {missing} of a group of {self.degree}, awaited by rank {self.rank}, {problem}"
            )


def join_shared_group(rank: int, handle: Any) -> SharedGroup | None:
    """Connect the ranks of one of Paddle's groups; None on all of them if one cannot be connected.

    handle: Paddle's group, which carries the place of the memory and the answers.
    """
    name = f"paddle_glm-{secrets.token_hex(16)}"
    place = np.zeros(2 + len(name), dtype=np.int64)
    descriptor = None
    library = kernel_library()
    if rank == 0 and library is not None:
        try:
            descriptor = create_shared_file(name, library.paddle_glm_shared_group_size(handle.nranks))
            place[:] = os.getpid(), descriptor, *name.encode()
        except OSError as error:
            logger.info("no memory to share between processes: %s", error)
    sent = paddle.to_tensor(place)
    dist.broadcast(sent, src=handle.ranks[0], group=handle)
    process, number, *letters = (int(value) for value in sent.numpy())
    group = None
    if process != 0 and library is not None:
        try:
            if descriptor is None:
                descriptor = open_shared_file(process, number, bytes(letters).decode())
            group = SharedGroup(library, descriptor, rank, handle.nranks)
        except OSError as error:
            logger.info("rank %d shares no memory with rank 0 of its group: %s", rank, error)
    connected = paddle.to_tensor([int(group is not None)])
    dist.all_reduce(connected, op=dist.ReduceOp.MIN, group=handle)
    if rank == 0:
        way = "shared memory" if int(connected) else "gloo"
        logger.info("%d processes add their results through %s", handle.nranks, way)
    return group if int(connected) else None
