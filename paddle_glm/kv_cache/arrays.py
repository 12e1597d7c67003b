"""What a cache needs of an array library; numpy's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArrayLibrary:
    """Operations on tensors of one library.

    take: rows (axis 0) by number, int64 [new batch]. concat: tensors of one dtype, along an axis. zeros: of a
    shape, in the dtype of another tensor. nbytes: of a tensor.
    """

    take: Callable[[Any, np.ndarray], Any]
    concat: Callable[[Sequence[Any], int], Any]
    zeros: Callable[[Sequence[int], Any], Any]
    nbytes: Callable[[Any], int]


def _take(tensor: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return tensor[rows]


def _concat(tensors: Sequence[np.ndarray], axis: int) -> np.ndarray:
    return np.concatenate(tensors, axis=axis)


def _zeros(shape: Sequence[int], like: np.ndarray) -> np.ndarray:
    return np.zeros(shape, like.dtype)


def _nbytes(tensor: np.ndarray) -> int:
    return tensor.nbytes


NUMPY = ArrayLibrary(_take, _concat, _zeros, _nbytes)
