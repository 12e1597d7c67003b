"""Conversion between Paddle tensors and numpy arrays."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import paddle
from paddle import Tensor

from paddle_glm.array_types import Array, DType


def paddle_dtype_name(tensor: Tensor) -> str:
    """The dtype of a tensor by name: "float32", "bfloat16", ..."""
    return str(tensor.dtype).removeprefix("paddle.")


def numpy_dtype(name: str) -> DType:
    """numpy's dtype of Paddle's dtype name; bfloat16 is ml_dtypes'."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def tensor_nbytes(tensor: Tensor) -> int:
    """Size of a tensor's values in bytes."""
    return tensor.size * tensor.element_size()


def to_numpy(tensor: Tensor) -> Array:
    """A numpy array of the same dtype; Paddle returns bfloat16 as uint16."""
    array = tensor.numpy()
    return array.view(ml_dtypes.bfloat16) if tensor.dtype == paddle.bfloat16 else array


def from_numpy(array: Array, dtype: str) -> Tensor:
    """A tensor of `dtype` from an array of any float dtype (rounded to nearest even), or int8 from int8."""
    cast = np.ascontiguousarray(array.astype(numpy_dtype(dtype), copy=False))
    if dtype == "bfloat16":
        return paddle.to_tensor(cast.view(np.uint16)).view("bfloat16")
    return paddle.to_tensor(cast)


def step_tensor(array: Array) -> Tensor:
    """A tensor of the array's values on the current device, for what runs at every token.

    `paddle.to_tensor` leaves 112 bytes behind at every call (3.3.1).
    """
    tensor = paddle.empty(array.shape, dtype=getattr(paddle, array.dtype.name))
    tensor.get_tensor().set(np.ascontiguousarray(array), paddle.framework._current_expected_place())
    return tensor


def readonly_array(tensor: Tensor) -> Array:
    """A tensor's values, without a copy on CPU; valid while the tensor exists and is not changed."""
    return cpu_view(tensor) if tensor.place.is_cpu_place() and tensor.is_contiguous() else to_numpy(tensor)


@contextmanager
def writable_array(tensor: Tensor) -> Iterator[Array]:
    """An array of the tensor's shape and dtype to be filled inside the block.

    On CPU it is the tensor's memory, so loading a model needs no second copy of any weight.
    """
    if tensor.place.is_cpu_place() and tensor.is_contiguous():
        yield cpu_view(tensor)
        return
    array = np.empty(tensor.shape, numpy_dtype(paddle_dtype_name(tensor)))
    yield array
    tensor.set_value(from_numpy(array, paddle_dtype_name(tensor)))


def cpu_view(tensor: Tensor) -> Array:
    """The memory of a contiguous CPU tensor, as a writable array."""
    # DLPack, the alternative, gives numpy a read-only array, and none for bfloat16.
    buffer = (ctypes.c_ubyte * tensor_nbytes(tensor)).from_address(tensor.data_ptr())
    return np.frombuffer(memoryview(buffer).cast("B"), numpy_dtype(paddle_dtype_name(tensor))).reshape(
        tensor.shape
    )
