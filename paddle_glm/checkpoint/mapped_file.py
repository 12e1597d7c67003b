"""Memory-mapped files."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError


def map_file(path: Path) -> Array:
    """A file as a read-only uint8 array backed by the page cache; raises InputError if it is empty."""
    with open(path, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InputError(f"{path} is empty: the download or save was cut off") from error
    # Tensors are read sequentially: this doubles the kernel's read-ahead.
    if hasattr(mmap, "MADV_SEQUENTIAL"):  # not on Windows
        mapped.madvise(mmap.MADV_SEQUENTIAL)
    return np.frombuffer(mapped, np.uint8)


def release_pages(array: Array) -> None:
    """Unmap the resident pages of the file that `array` is a view of; a no-op for other arrays.

    The data stay in the page cache and readable through the array, but no longer count as this process's
    resident memory.
    """
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
