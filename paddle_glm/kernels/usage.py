"""Where the native operators compute what lies between the products: norms, activation, attention."""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from paddle_glm.kernels.library import kernel_library

_traced = _recomputed = False


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
