"""Quantised weights in kernel order (csrc/layout.h), a permutation in place of the hub's format."""

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.kernels.library import kernel_library


def has_kernel_order(in_features: int, group_size: int | None, bits: int) -> bool:
    """Whether the kernels are there and take such weights; group_size: inputs per scale, None for all."""
    library = kernel_library()
    if library is None:
        return False
    return bool(library.paddle_glm_has_kernel_order(in_features, group_size or in_features, bits))


def pack(values: Array, scale: Array, bits: int) -> None:
    """Hub order -> kernel order, in place.

    values: int8 [out, in * bits / 8]; scale: float32 [out] or [out, groups].
    """
    _permute("paddle_glm_pack", values, scale, bits)


def unpack(values: Array, scale: Array, bits: int) -> None:
    """The inverse of `pack`."""
    _permute("paddle_glm_unpack", values, scale, bits)


def _permute(function: str, values: Array, scale: Array, bits: int) -> None:
    assert values.dtype == np.int8 and scale.dtype == np.float32
    assert values.flags.c_contiguous and scale.flags.c_contiguous
    rows, columns = len(values), values.shape[1] * 8 // bits
    group_size = columns if scale.ndim == 1 else columns // scale.shape[1]
    library = kernel_library()
    assert library is not None
    getattr(library, function)(values.ctypes.data, scale.ctypes.data, rows, columns, group_size, bits)
