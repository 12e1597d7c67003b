"""What a cache needs of an array library; numpy's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray


@dataclass(frozen=True)
class ArrayLibrary:
    """Operations on tensors of one library.

    take: rows (axis 0) by number, int64 [new batch]. concat: tensors of one dtype, along an axis. zeros: of a
    shape, in the dtype of another tensor. nbytes: of a tensor. asarray: a numpy array in a dtype, by name.
    """

    take: Callable[[Any, Array], Any]
    concat: Callable[[Sequence[Any], int], Any]
    zeros: Callable[[Sequence[int], Any], Any]
    nbytes: Callable[[Any], int]
    asarray: Callable[[Array, str], Any]


def _take(tensor: Array, rows: IntArray) -> Array:
    return tensor[rows]


def _concat(tensors: Sequence[Array], axis: int) -> Array:
    return np.concatenate(tensors, axis=axis)


def _zeros(shape: Sequence[int], like: Array) -> Array:
    return np.zeros(shape, like.dtype)


def _nbytes(tensor: Array) -> int:
    return tensor.nbytes


def _asarray(array: Array, dtype: str) -> Array:
    return array.astype(dtype)


NUMPY = ArrayLibrary(_take, _concat, _zeros, _nbytes, _asarray)


def common_prefix_length(past: IntArray, input_ids: IntArray) -> int:
    """How many of `input_ids` [length] are the first ones of `past`; the last one is left, to be computed."""
    length = min(len(past), len(input_ids) - 1)
    differ = np.flatnonzero(past[:length] != input_ids[:length])
    return int(differ[0]) if differ.size else length
