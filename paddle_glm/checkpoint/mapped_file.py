"""Files read by way of the page cache."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError


def map_file(path: Path) -> Array:
    """The bytes of a file as a read-only uint8 array backed by the page cache."""
    with open(path, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InputError(f"{path} is empty: the download or save was cut off") from error
    # Tensors are read from start to end: doubles the kernel's read-ahead.
    if hasattr(mmap, "MADV_SEQUENTIAL"):  # not on Windows
        mapped.madvise(mmap.MADV_SEQUENTIAL)
    return np.frombuffer(mapped, np.uint8)


def release_pages(array: Array) -> None:
    """Give back what this process has read of the file that `array` is a view of.

    The page cache still has it, and so has the array; it only no longer counts as this process's memory.
    Other arrays are left alone.
    """
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
