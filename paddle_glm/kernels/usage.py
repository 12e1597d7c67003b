"""Where other operators than Paddle's plain ones compute: the native ones on CPUs, fused ones on GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import paddle
from paddle import Tensor

from paddle_glm.kernels.library import kernel_library

_HALF = (paddle.float16, paddle.bfloat16)
# With more rows of x MKL is as fast (docs/performance.md).
_FLOAT32_ROWS = 64


class _Mode:
    """What is on within `with mode():`, also nested."""

    def __init__(self) -> None:
        self._depth = 0

    def __bool__(self) -> bool:
        return self._depth > 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


# Graphs traced within it use the native operators.
operator_graph = _Mode()
# Both passes of a recomputed block use a training step's operators, also the one without gradients.
recomputed_block = _Mode()
# Within it GPUs compute with Paddle's plain operators, which the fused ones are compared with.
plain_operators = _Mode()


def uses_operators() -> bool:
    """Whether they do here: in inference on a CPU where they can be built, and in an `operator_graph`."""
    if not paddle.in_dynamic_mode():
        return bool(operator_graph)
    if recomputed_block:
        return False
    return not paddle.is_grad_enabled() and paddle.get_device() == "cpu" and kernel_library() is not None


def multiplies_float32(x: Tensor) -> bool:
    """Whether the native product with a float32 weight is for x [..., in], where `uses_operators`.

    It is for few rows in dygraph; Paddle's is for more, and in graphs, which know no number of rows.
    """
    # Asked for each product; `Tensor.size` would take 20 microseconds.
    return paddle.in_dynamic_mode() and x.dtype == paddle.float32 and prod(x.shape[:-1]) <= _FLOAT32_ROWS


def fused(*tensors: Tensor) -> bool:
    """Whether the fused operators (`kernels.gpu`) compute with these tensors.

    In dygraph, for half precision of one dtype on a GPU, unless PADDLE_GLM_KERNELS=0.
    """
    dtype = tensors[0].dtype
    return (
        dtype in _HALF
        and all(one.dtype == dtype and on_gpu(one) for one in tensors)
        and paddle.in_dynamic_mode()
        and not plain_operators
        and os.environ.get("PADDLE_GLM_KERNELS") != "0"
    )


def on_gpu(tensor: Tensor) -> bool:
    return bool(tensor.place.is_gpu_place())
