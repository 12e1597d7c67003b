"""Paddle's tensors as numpy's arrays and back."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import paddle
from paddle import Tensor

from paddle_glm.array_types import Array, DType


def paddle_dtype_name(tensor: Tensor) -> str:
    """ "float32", "bfloat16", ..."""
    return str(tensor.dtype).removeprefix("paddle.")


def numpy_dtype(name: str) -> DType:
    """numpy's dtype for Paddle's name of it."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def tensor_nbytes(tensor: Tensor) -> int:
    """How many bytes a tensor's numbers take."""
    return tensor.size * tensor.element_size()


def to_numpy(tensor: Tensor) -> Array:
    """numpy array of the same dtype; Paddle hands bfloat16 out as its bits."""
    array = tensor.numpy()
    return array.view(ml_dtypes.bfloat16) if tensor.dtype == paddle.bfloat16 else array


def from_numpy(array: Array, dtype: str) -> Tensor:
    """Tensor of `dtype` (rounded to nearest even) from an array of any float dtype, or of int8 from int8."""
    cast = np.ascontiguousarray(array.astype(numpy_dtype(dtype), copy=False))
    if dtype == "bfloat16":
        return paddle.to_tensor(cast.view(np.uint16)).view("bfloat16")
    return paddle.to_tensor(cast)


def readonly_array(tensor: Tensor) -> Array:
    """A tensor's numbers, to be read while it lives and is not changed: no copy where it is on the CPU."""
    return _cpu_view(tensor) if tensor.place.is_cpu_place() and tensor.is_contiguous() else to_numpy(tensor)


@contextmanager
def writable_array(tensor: Tensor) -> Iterator[Array]:
    """An array of the tensor's shape and dtype whose numbers, filled in inside, are the tensor's afterwards.

    On the CPU it is the tensor's own memory, so that a model needs no more than it is large while it is read.
    """
    if tensor.place.is_cpu_place() and tensor.is_contiguous():
        yield _cpu_view(tensor)
        return
    array = np.empty(tensor.shape, numpy_dtype(paddle_dtype_name(tensor)))
    yield array
    tensor.set_value(from_numpy(array, paddle_dtype_name(tensor)))


def _cpu_view(tensor: Tensor) -> Array:
    """A contiguous CPU tensor's own memory."""
    # DLPack, Paddle's other way, gives numpy a read-only array, and none of bfloat16.
    buffer = (ctypes.c_ubyte * tensor_nbytes(tensor)).from_address(tensor.data_ptr())
    return np.frombuffer(memoryview(buffer).cast("B"), numpy_dtype(paddle_dtype_name(tensor))).reshape(
        tensor.shape
    )
