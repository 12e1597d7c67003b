"""What Linux, Windows and macOS do differently: locks, files in use, processors, memory, the console.

Nothing else in this package asks which system it runs on, or takes what some systems lack.
"""

import ctypes
import gc
import io
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
# Not asked in place: type checkers skip what is behind `sys.platform`.
PLATFORM: str = sys.platform
WINDOWS = PLATFORM == "win32"
LINUX = PLATFORM.startswith("linux")
# For how long a file that another program has open is waited for: virus scanners and indexers open new ones.
FILE_IN_USE_TIMEOUT = 2.0

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]


def usable_cpus() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_bytes() -> int:
    """Most resident memory that this process has had."""
    if resource is not None:
        unit = 1 if PLATFORM == "darwin" else 1024  # bytes on macOS, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # peak_wset: on Windows


def resident_bytes() -> int:
    """Resident memory that this process has now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def c_library() -> ctypes.CDLL | None:
    """The C library that this process runs on; None on Windows, where it has no common name."""
    return None if WINDOWS else ctypes.CDLL(None, use_errno=True)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, without waiting; the lock goes with the descriptor."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except (BlockingIOError, PermissionError):
        return False
    return True


def release_lock(descriptor: int, path: Path) -> None:
    """Remove the file of a lock and let go of it. A file that cannot be removed does no harm."""
    if not WINDOWS:  # while it is locked, so that nobody else holds a file without a name
        with suppress(OSError):
            path.unlink(missing_ok=True)
    os.close(descriptor)
    if WINDOWS:  # open files have to stay there, ours and those of who waits for the lock
        with suppress(OSError):
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on disk. Windows writes names down by itself."""
    if WINDOWS and path.is_dir():
        return
    # Windows flushes what is open for writing alone.
    descriptor = os.open(path, (os.O_RDWR | getattr(os, "O_BINARY", 0)) if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def retry_while_in_use(action: Callable[..., Result], *arguments: Any) -> Result:
    """`action(*arguments)`; on Windows again for a while where a file is in use.

    There a file that any program has open, or mapped, is neither renamed nor removed, and nor is its folder.
    """
    deadline = time.monotonic() + FILE_IN_USE_TIMEOUT
    while True:
        try:
            return action(*arguments)
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
            gc.collect()  # maps of our own that nobody uses any more
            time.sleep(0.05)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it; what is read-only too, as on POSIX."""

    def again(function: Callable[..., Any], path: str, _: Any) -> None:
        os.chmod(path, stat.S_IWRITE)
        retry_while_in_use(function, path)

    shutil.rmtree(folder, onerror=again if WINDOWS else None)


def bind_exclusive(bound: socket.socket, address: Any) -> None:
    """Bind a socket to an address that no other program listens on, though one may just have ended."""
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows SO_REUSEADDR lets two programs share a port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)


def configure_console_encoding() -> None:
    """Let every text be printed, whatever the console's code page.

    A file or a pipe whose encoding has no Chinese gets UTF-8, as the files that we write; what a terminal
    cannot show is shown as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            "你".encode(stream.encoding)
        except UnicodeEncodeError:
            if not stream.isatty():
                stream.reconfigure(encoding="utf-8")
        if stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
