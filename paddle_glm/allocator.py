"""The C library's allocator, told to keep what is freed.

Paddle's operators on a CPU take memory for every result and give it back at once. Blocks of some MiB go to
the system and come back cleared, page by page: two thirds of a step's time where weights become floats as
they are used, in blocks as large as a graph's.
"""

from paddle_glm.system import c_library

# M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h: how much free memory is kept at the heap's end, and how
# many blocks may lie outside the heap, which free gives back whatever their size.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_TRIM_BYTES = 512 << 20


def keep_freed_memory() -> None:
    """From now on keep up to 512 MiB of freed memory in this process; does nothing without glibc."""
    mallopt = getattr(c_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
