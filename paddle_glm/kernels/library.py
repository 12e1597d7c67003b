"""The built library in this process: loaded once, with its operators registered in Paddle."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from paddle_glm.errors import InputError
from paddle_glm.kernels.build import BuildError, built_library

ARITHMETICS = ("auto", "int8", "bfloat16", "float32")
_INT64, _INT = ctypes.c_int64, ctypes.c_int
_POINTER, _FLOAT = ctypes.c_void_p, ctypes.c_float
_SIGNATURES: dict[str, tuple[list[type], type | None]] = {
    "paddle_glm_operators_version": ([], _INT),
    "paddle_glm_isa": ([], ctypes.c_char_p),
    "paddle_glm_set_isa": ([ctypes.c_char_p], ctypes.c_bool),
    "paddle_glm_has_kernel_order": ([_INT64, _INT64, _INT], ctypes.c_bool),
    "paddle_glm_pack": ([_POINTER, _POINTER, _INT64, _INT64, _INT64, _INT], None),
    "paddle_glm_unpack": ([_POINTER, _POINTER, _INT64, _INT64, _INT64, _INT], None),
    "paddle_glm_begin_huge_pages": ([_INT64], _POINTER),
    "paddle_glm_end_huge_pages": ([_POINTER], None),
    "paddle_glm_squared_norm": ([_POINTER, _INT64], ctypes.c_double),
    "paddle_glm_shared_group_size": ([_INT], _INT64),
    "paddle_glm_shared_group": ([_INT, _INT, _INT], _POINTER),
    "paddle_glm_shared_sum": ([_POINTER, _POINTER, _POINTER, _INT64, _INT64], _INT),
    "paddle_glm_shared_gather": ([_POINTER, _POINTER, _POINTER, _INT64, _INT64], _INT),
    "paddle_glm_adamw": ([_POINTER, _INT64, *5 * [_POINTER], *6 * [_FLOAT]], None),
}


def report(message: str) -> None:
    """Print a line to stderr, by rank 0 only."""
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":  # once, not for every rank
        print(f"paddle-glm: {message}", file=sys.stderr, flush=True)


@cache
def kernel_library() -> ctypes.CDLL | None:
    """The library, built if needed; None where it cannot be built, or with PADDLE_GLM_KERNELS=0."""
    if os.environ.get("PADDLE_GLM_KERNELS") == "0":
        return None
    asked_arithmetic()
    from paddle.base import core

    try:
        path = built_library(report)
    except BuildError as error:
        report(f"native CPU kernels are off, and quantised models many times slower: {error}")
        return None
    core.load_op_meta_info_and_register_op(str(path))
    library = ctypes.CDLL(str(path))
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


def asked_arithmetic() -> str:
    """PADDLE_GLM_ARITHMETIC; raises `InputError` for a value that `parse_arithmetic` (csrc) refuses."""
    asked = os.environ.get("PADDLE_GLM_ARITHMETIC", "") or ARITHMETICS[0]
    if asked not in ARITHMETICS:
        raise InputError(f"PADDLE_GLM_ARITHMETIC={asked}: expected one of {', '.join(ARITHMETICS)}")
    return asked


def operators_version() -> int:
    """What an exported graph with native operators is read by (csrc/layout.h); 0 without the library."""
    library = kernel_library()
    return 0 if library is None else int(library.paddle_glm_operators_version())


@contextmanager
def huge_pages(nbytes: int) -> Iterator[None]:
    """Within it, Paddle allocates up to so many bytes in huge pages; see csrc/huge_pages.h."""
    library = kernel_library()
    if library is None:
        yield
        return
    pages = library.paddle_glm_begin_huge_pages(nbytes)
    try:
        yield
    finally:
        library.paddle_glm_end_huge_pages(pages)


def isa() -> str:
    """The instruction set in use; see csrc/isa.h."""
    library = kernel_library()
    return "" if library is None else str(library.paddle_glm_isa().decode())
