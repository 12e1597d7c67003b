"""Compute dtype and mixed precision."""

from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import Tensor

_HALF = (paddle.float16, paddle.bfloat16)


def compute_dtype(weight_dtype: paddle.dtype) -> paddle.dtype:
    """The dtype of activations and caches for weights of `weight_dtype`.

    Paddle 3.3 has no half precision matmul, softmax or norm for CPU: there half precision weights are upcast
    where they are used, and everything else is float32.
    """
    if weight_dtype in _HALF and paddle.get_device() == "cpu":
        return paddle.float32
    return weight_dtype


def autocast_disabled() -> AbstractContextManager[Any]:
    """A context without automatic mixed precision, for norms, softmax and the loss in float32.

    At level O2 Paddle would otherwise cast the inputs of every operation to half precision.
    """
    return paddle.amp.auto_cast(enable=False)


def autocast_operands(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The operands in the dtype in which automatic mixed precision multiplies, for functions that compute
    their backward pass themselves, where it is off.
    """
    if not paddle.is_autocast_enabled():
        return query, key, value
    dtype = paddle.get_autocast_dtype()
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)
