"""Where the native operators compute what lies between the products: norms, activation, attention."""

from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from paddle_glm.kernels.library import kernel_library

_traced = False


@contextmanager
def operator_graph() -> Iterator[None]:
    """Graphs traced within it use the native operators."""
    global _traced
    _traced = True
    try:
        yield
    finally:
        _traced = False


def uses_operators() -> bool:
    """Whether they do here: in inference on a CPU where they can be built, and in an `operator_graph`."""
    if not paddle.in_dynamic_mode():
        return _traced
    return not paddle.is_grad_enabled() and paddle.get_device() == "cpu" and kernel_library() is not None
