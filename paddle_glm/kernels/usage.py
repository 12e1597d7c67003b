"""Where other operators than Paddle's plain ones compute: the native ones on CPUs, fused ones on GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import Tensor

from paddle_glm.kernels.library import kernel_library

_traced = _recomputed = _plain = False
_HALF = (paddle.float16, paddle.bfloat16)


@contextmanager
def operator_graph() -> Iterator[None]:
    """Graphs traced within it use the native operators."""
    global _traced
    _traced = True
    try:
        yield
    finally:
        _traced = False


@contextmanager
def recomputed_block() -> Iterator[None]:
    """Both passes of a recomputed block use a training step's operators, also the one without gradients."""
    global _recomputed
    before, _recomputed = _recomputed, True
    try:
        yield
    finally:
        _recomputed = before


def in_recomputed_block() -> bool:
    return _recomputed


def uses_operators() -> bool:
    """Whether they do here: in inference on a CPU where they can be built, and in an `operator_graph`."""
    if not paddle.in_dynamic_mode():
        return _traced
    if _recomputed:
        return False
    return not paddle.is_grad_enabled() and paddle.get_device() == "cpu" and kernel_library() is not None


@contextmanager
def plain_operators() -> Iterator[None]:
    """Within it GPUs compute with Paddle's plain operators, which the fused ones are compared with."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def fused(*tensors: Tensor) -> bool:
    """Whether the fused operators (`kernels.gpu`) compute with these tensors.

    In dygraph, for half precision of one dtype on a GPU, unless PADDLE_GLM_KERNELS=0.
    """
    dtype = tensors[0].dtype
    return (
        dtype in _HALF
        and all(one.dtype == dtype and on_gpu(one) for one in tensors)
        and paddle.in_dynamic_mode()
        and not _plain
        and os.environ.get("PADDLE_GLM_KERNELS") != "0"
    )


def on_gpu(tensor: Tensor) -> bool:
    return bool(tensor.place.is_gpu_place())
