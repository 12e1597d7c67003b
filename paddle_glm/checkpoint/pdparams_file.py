"""Paddle's `.pdparams` files without Paddle: memory-mapped reading, streaming writing.

paddle.save writes one pickle (protocol 4 by default): a dict of numpy arrays, each as
`numpy.core.multiarray._reconstruct` and a state (version, shape, dtype, Fortran order, bytes). bfloat16 is
stored as uint16. https://github.com/PaddlePaddle/Paddle/blob/v3.3.1/python/paddle/framework/io.py
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.checkpoint.hashed_file import HashedFile
from paddle_glm.checkpoint.lazy_tensor import DTYPES, LazyTensor, safetensors_dtype_name
from paddle_glm.checkpoint.mapped_file import map_file
from paddle_glm.checkpoint.safe_pickle import (
    Globals,
    StatefulObject,
    UnsafePickleError,
    describe,
    pickle_str,
    safe_loads,
)
from paddle_glm.checkpoint.safetensors_file import write_chunks
from paddle_glm.errors import InputError
from paddle_glm.progress import Progress

# numpy codes -> safetensors names; Paddle has no unsigned 16-bit tensors, so u2 is bfloat16.
_DTYPES = {
    "f8": "F64", "f4": "F32", "f2": "F16", "u2": "BF16", "i8": "I64", "i4": "I32", "i2": "I16",
    "i1": "I8", "u1": "U8", "b1": "BOOL",
}  # fmt: skip
_NUMPY_CODES = {name: code for code, name in _DTYPES.items()}
_NAME_TABLE_KEY = "StructuredToParameterName@@"
_SLICED_TENSORS_KEY = "UnpackBigParamInfor@@"
_RESAVE_HINT = (
    "has pickle protocol {}, which stores tensors as text or in slices: if you trust it, save it again "
    "with Paddle, paddle.save(paddle.load(FILE), FILE, protocol=4)"
)


def open_pdparams(path: Path) -> dict[str, Array]:
    """Read-only views of every tensor in a `.pdparams` file; only names and shapes are read.

    Raises InputError if the file is damaged or not a pickle of a dict of named arrays alone.
    """
    data = map_file(path)
    if data[0] != 0x80:
        raise InputError(f"{path} is not a .pdparams file of paddle.save: it does not start as a pickle")

    def encode(*_: Any) -> None:
        raise InputError(f"{path} {_RESAVE_HINT.format(2)}")

    allowed: Globals = {**_ALLOWED, ("_codecs", "encode"): encode}
    loaded = safe_loads(data.data, str(path), allowed)
    if type(loaded) is not dict:
        raise InputError(f"{path} holds {describe(loaded)}, expected a dict of tensors")
    if _SLICED_TENSORS_KEY in loaded:
        raise InputError(f"{path} {_RESAVE_HINT.format(3)}")
    loaded.pop(_NAME_TABLE_KEY, None)
    tensors = {}
    for name, value in loaded.items():
        if type(name) is not str or not isinstance(value, _Array) or value.array is None:
            raise InputError(f"{path}: {describe(name)} is {describe(value)}, expected a name and a tensor")
        tensors[name] = value.array
    return tensors


def write_pdparams(path: Path, tensors: Mapping[str, LazyTensor], progress: Progress | None = None) -> None:
    """Write and hash a `.pdparams` file for paddle.load, tensor by tensor."""
    with HashedFile(path) as file:
        file.write(b"\x80\x04}")
        for name, tensor in tensors.items():
            file.write(_array_pickle_header(name, tensor))
            write_chunks(file, name, tensor, progress)
            file.write(b"tbs")
        file.write(b".")


def _array_pickle_header(name: str, tensor: LazyTensor) -> bytes:
    """The pickle of a name and an array, up to the array's bytes, which are followed by `tbs`."""
    code = _NUMPY_CODES[safetensors_dtype_name(tensor.dtype)]
    shape = b"".join(b"\x8a\x08" + struct.pack("<q", length) for length in tensor.shape)
    order = "|" if tensor.dtype.itemsize == 1 else "<"
    return b"".join(
        [
            pickle_str(name),
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR",
            b"(K\x01(" + shape + b"t",
            b"cnumpy\ndtype\n(" + pickle_str(code) + b"\x89\x88tR",
            b"(K\x03" + pickle_str(order) + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb",
            b"\x89\x8e" + struct.pack("<Q", tensor.nbytes),
        ]
    )


class _Dtype(StatefulObject):
    """Stands for numpy.dtype: little-endian numbers only."""

    def __init__(self, code: Any) -> None:
        if type(code) is not str or code not in _DTYPES:
            raise UnsafePickleError(f"the dtype {describe(code)}")
        self.dtype = DTYPES[_DTYPES[code]]

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            raise UnsafePickleError("a dtype that is not little-endian")


class _Array(StatefulObject):
    """Stands for numpy.ndarray: a view of the file once its state is set."""

    def __init__(self) -> None:
        self.array: Array | None = None

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise UnsafePickleError("an array without its five fields")
        _, shape, dtype, fortran, data = state
        if type(shape) is not tuple or not all(type(length) is int and length >= 0 for length in shape):
            raise UnsafePickleError("an array whose shape is not a tuple of numbers >= 0")
        if not isinstance(dtype, _Dtype) or type(data) is not memoryview:
            raise UnsafePickleError("an array of something other than plain numbers")
        flat = np.frombuffer(data, dtype.dtype) if data.nbytes else np.empty(0, dtype.dtype)
        self.array = flat.reshape(shape[::-1]).T if fortran is True else flat.reshape(shape)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """numpy.core.multiarray._reconstruct: an array whose state follows."""
    if kind is not _NDARRAY:
        raise UnsafePickleError("an array of an unknown class")
    return _Array()


def _new_dtype(code: Any, align: Any = False, copy: Any = True) -> _Dtype:
    return _Dtype(code)


def _named_tensor(*arguments: Any) -> _Array:
    """tuple((name, array)), as paddle.save writes a tensor in some dicts: return the array."""
    pair = arguments[0] if len(arguments) == 1 else None
    if type(pair) is not tuple or len(pair) != 2 or not isinstance(pair[1], _Array):
        raise UnsafePickleError("a tuple that is not a tensor and its name")
    return pair[1]


# The class that pickles pass to _reconstruct.
_NDARRAY = object()
_RECONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "dtype"): _new_dtype,
    ("builtins", "tuple"): _named_tensor,
}
_ALLOWED: Globals = {**_RECONSTRUCTORS, ("numpy", "ndarray"): _NDARRAY}
