"""Symmetric round-to-nearest quantisation of weights, per output channel or per group of inputs.

The format is that of quantization.py of THUDM/chatglm-6b-int4 (per channel) with groups added: values are
int8 [out, in], or for 4 bits int8 [out, in // 2] with two inputs per byte, the earlier one in the high
nibble, both in two's complement. weight = value * scale.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError

BITS = (4, 8)
# Fine enough for 4 bits; its float32 scales cost a quarter of a bit per weight.
_MAX_GROUP_SIZE = 128
# Smaller groups gain little and cost much: scales for groups of 8 take as many bytes as the 4-bit values.
_MIN_GROUP_SIZE = 32
# Float32 bytes processed at once, so that they stay in the CPU cache.
_BLOCK_BYTES = 4 << 20


class QuantizedWeight(NamedTuple):
    """values: int8 [out, in], packed to [out, in // 2] for 4 bits; scale: float32 [out] or [out, groups]."""

    values: Array
    scale: Array


def check_bits(bits: int) -> None:
    """Raise `InputError` for an unsupported number of bits."""
    if bits not in BITS:
        raise InputError(f"{bits!r} bits: expected {' or '.join(map(str, BITS))}")


def check_group_size(in_features: int, bits: int, group_size: int | None) -> None:
    """Raise `InputError` if groups do not divide `in_features`, or if 4-bit values do not fill bytes."""
    check_bits(bits)
    if bits == 4 and in_features % 2:
        raise InputError(f"{in_features} inputs: 4 bits need an even number, two share a byte")
    if group_size is not None and (group_size < 1 or in_features % group_size):
        raise InputError(
            f"group_size {group_size} does not divide {in_features} inputs: expected a divisor, or 0 for one "
            "scale per output"
        )
    if group_size is not None and bits == 4 and group_size % 2:
        raise InputError(f"group_size {group_size}: 4 bits need an even number, two inputs share a byte")


def default_group_size(bits: int, in_features: Iterable[int]) -> int | None:
    """The default group size: 8 bits: None, one scale per output channel. 4 bits: the largest of 128, 64 and
    32 that divides all `in_features` (128 for the released models), or None.
    """
    check_bits(bits)
    if bits == 8:
        return None
    features = list(in_features)
    size = _MAX_GROUP_SIZE
    while size >= _MIN_GROUP_SIZE:
        if not any(number % size for number in features):
            return size
        size //= 2
    return None


def quantize(weight: Array, bits: int, group_size: int | None = None) -> QuantizedWeight:
    """Quantise a weight [out, in] of any float dtype, a block of rows at a time.

    scale = max|w| / (2^(bits-1) - 1) over a row, or over `group_size` consecutive inputs of it; values are
    rounded to nearest, ties to even. All-zero rows or groups have scale 0. Raises `InputError` if groups do
    not divide the inputs, and for NaN or infinity.
    """
    out_features, in_features = weight.shape
    check_group_size(in_features, bits, group_size)
    group = group_size or in_features
    values = np.empty((out_features, in_features * bits // 8), np.int8)
    scale = np.empty((out_features, in_features // group), np.float32)
    rows = max(1, _BLOCK_BYTES // (4 * in_features))
    for start in range(0, out_features, rows):
        block_rows = slice(start, start + rows)
        block = weight[block_rows].astype(np.float32).reshape(-1, in_features // group, group)
        scale[block_rows] = _scale(block, bits)
        integers = _round_to_int8(block, scale[block_rows]).reshape(-1, in_features)
        values[block_rows] = pack_int4(integers) if bits == 4 else integers
    return QuantizedWeight(values, scale[:, 0] if group_size is None else scale)


def dequantize(values: Array, scale: Array, bits: int) -> Array:
    """The weight, float32 [out, in], of the fields of a `QuantizedWeight`; scale may have any float dtype."""
    check_bits(bits)
    integers = unpack_int4(values) if bits == 4 else values
    out_features, in_features = integers.shape
    grouped = scale.astype(np.float32).reshape(out_features, -1, 1)
    weight = integers.astype(np.float32).reshape(out_features, grouped.shape[1], -1)
    return (weight * grouped).reshape(out_features, in_features)


def pack_int4(integers: Array) -> Array:
    """int8 [..., n] with values -8 to 7 -> int8 [..., n // 2]."""
    nibbles = integers.view(np.uint8)
    return ((nibbles[..., 0::2] << 4) | (nibbles[..., 1::2] & 15)).view(np.int8)


def unpack_int4(packed: Array) -> Array:
    """int8 [..., n // 2] -> int8 [..., n] with values -8 to 7."""
    integers = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.int8)
    four = np.int8(4)
    integers[..., 0::2] = packed >> four
    integers[..., 1::2] = (packed << four) >> four  # the arithmetic shift right extends the sign
    return integers


def _scale(block: Array, bits: int) -> Array:
    """float32 [rows, groups] for a block [rows, groups, group]."""
    scale: Array = np.abs(block).max(axis=-1) / np.float32(2 ** (bits - 1) - 1)
    if not np.isfinite(scale).all():
        raise InputError("it contains NaN or infinity")
    # Division by subnormal scales is inexact and may leave the range; such weights are negligible.
    scale[scale < np.finfo(np.float32).tiny] = 0
    return scale


def _round_to_int8(block: Array, scale: Array) -> Array:
    """int8 of the block's shape; `block` is overwritten."""
    np.divide(block, scale[..., None], out=block, where=scale[..., None] != 0)
    block[scale == 0] = 0
    return np.rint(block, out=block).astype(np.int8)
