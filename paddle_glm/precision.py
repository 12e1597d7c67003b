"""Which dtype a model computes in."""

from contextlib import AbstractContextManager
from typing import Any

import paddle

_HALF = (paddle.float16, paddle.bfloat16)


def compute_dtype(stored: paddle.dtype) -> paddle.dtype:
    """The dtype of activations for weights of dtype `stored`.

    Paddle 3.3 has no half precision matmul, softmax or norm for CPU: there, half weights are widened
    where they are used, and activations and caches are float32.
    """
    if stored in _HALF and paddle.get_device() == "cpu":
        return paddle.float32
    return stored


def autocast_disabled() -> AbstractContextManager[Any]:
    """Inside, automatic mixed precision leaves float32 alone: for norms, softmax and the loss.

    At level O2 it would otherwise cast the inputs of every operation to half precision.
    """
    return paddle.amp.auto_cast(enable=False)
