"""When the C library's allocator keeps freed memory, and when it returns it.

Paddle's CPU operators allocate memory for every result and free it at once. Blocks of a few MiB are returned
to the system, which clears them page by page when they are allocated again: a sixth of the time of a prompt
of 512 tokens at the shape of ChatGLM2-6B, and two thirds of that of a step that dequantises weights.
"""

from paddle_glm.system import c_library

# glibc's malloc.h: M_TRIM_THRESHOLD, free memory kept at the end of the heap; M_MMAP_MAX, number of blocks
# allocated outside the heap, which are always returned to the system.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_TRIM_BYTES = 512 << 20


def return_freed_memory() -> None:
    """Return freed memory of all threads to the system; no-op without glibc."""
    trim = getattr(c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Keep up to 512 MiB of freed memory in this process; no-op without glibc."""
    mallopt = getattr(c_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)
