"""Weights in the order that the native operators of an exported graph take them in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from paddle_glm.models.base import CausalLM
from paddle_glm.parallel.layers import ParallelWeight


@contextmanager
def kernel_order(model: CausalLM) -> Iterator[None]:
    """Within it, quantised weights that have a kernel order are in it for whatever reads them.

    They are permuted in their own memory, and back at the end.
    """
    with ExitStack() as stack:
        for layer in model.sublayers():
            if isinstance(layer, ParallelWeight) and (weight := layer.kernel_order_weight()) is not None:
                weight.pack()
                stack.callback(weight.unpack)
        yield
