"""Differences between Linux, Windows and macOS: locks, files in use, processors, memory, console.

No other module asks for the operating system or uses features that some systems lack.
"""

import ctypes
import gc
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
# A variable, since type checkers skip branches on `sys.platform` itself.
PLATFORM: str = sys.platform
WINDOWS = PLATFORM == "win32"
LINUX = PLATFORM.startswith("linux")
# Seconds to wait for a file that another program has open: virus scanners and indexers open new files.
FILE_IN_USE_TIMEOUT = 2.0
_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14  # of Linux's sys/mman.h

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]


def usable_cpus() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_bytes() -> int:
    """Peak resident memory of this process, in bytes."""
    if resource is not None:
        unit = 1 if PLATFORM == "darwin" else 1024  # bytes on macOS, KiB on Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # peak_wset: on Windows


def resident_bytes() -> int:
    """Resident memory of this process, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def c_library() -> ctypes.CDLL | None:
    """The C library of this process; None on Windows, where it has no fixed name."""
    return None if WINDOWS else ctypes.CDLL(None, use_errno=True)


def advise_huge_pages(address: int, nbytes: int) -> None:
    """Ask for pages of 2 MiB where memory [address, address + nbytes) is not used yet; no-op but on Linux.

    Reading many weights in sequence takes a fifth to a third less time than with pages of 4 KiB.
    """
    first = -(-address // _HUGE_PAGE) * _HUGE_PAGE
    length = (address + nbytes) // _HUGE_PAGE * _HUGE_PAGE - first
    library = c_library() if LINUX else None
    if library is not None and length > 0:
        library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)


def try_lock(descriptor: int) -> bool:
    """Lock an open file exclusively; False if another descriptor holds the lock. Closing it unlocks."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except (BlockingIOError, PermissionError):
        return False
    return True


def create_shared_file(name: str, nbytes: int) -> int:
    """Descriptor of a file in memory, of zeros, that is gone with the last process that has it open; Linux.

    Only processes of this user can open it: by `open_shared_file`. Raises `OSError` without enough memory.
    """
    descriptor = os.memfd_create(name)
    try:
        os.fchmod(descriptor, 0o600)
        os.posix_fallocate(descriptor, 0, nbytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_shared_file(process: int, descriptor: int, name: str) -> int:
    """A descriptor of the file that a process of this machine created. Raises `OSError` if it did not."""
    path = f"/proc/{process}/fd/{descriptor}"
    if os.readlink(path) != f"/memfd:{name} (deleted)":
        raise FileNotFoundError(f"{path} is not {name}")
    return os.open(path, os.O_RDWR)


def lock_byte(descriptor: int, offset: int) -> bool:
    """Lock one byte of an open file until this process ends; False if another process holds the lock.

    The lock is the process's: processes that it forks do not hold it. Linux.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_byte_locked(descriptor: int, offset: int) -> bool:
    """Whether another process holds the lock of `lock_byte`, or looks at it right now."""
    if not lock_byte(descriptor, offset):
        return True
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, offset)
    return False


def release_lock(descriptor: int, path: Path) -> None:
    """Remove a lock file and release the lock. A file that cannot be removed does no harm."""
    if not WINDOWS:  # while locked, so that no one else locks a file that is then removed
        with suppress(OSError):
            path.unlink(missing_ok=True)
    os.close(descriptor)
    if WINDOWS:  # open files cannot be removed
        with suppress(OSError):
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """fsync a file or a folder; on Windows folders need none."""
    if WINDOWS and path.is_dir():
        return
    # Windows only flushes files that are open for writing.
    descriptor = os.open(path, (os.O_RDWR | getattr(os, "O_BINARY", 0)) if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def kill_session(process: "subprocess.Popen[Any]") -> None:
    """End a process that began a session of its own, and, where the system can, all of the session."""
    if not hasattr(os, "killpg"):
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def retry_while_in_use(action: Callable[..., Result], *arguments: Any) -> Result:
    """Call `action(*arguments)`; on Windows retry while a file is in use, for `FILE_IN_USE_TIMEOUT` seconds.

    There a file that any program has open or mapped can neither be renamed nor removed, nor can its folder.
    """
    deadline = time.monotonic() + FILE_IN_USE_TIMEOUT
    while True:
        try:
            return action(*arguments)
        except PermissionError:
            if not WINDOWS or time.monotonic() > deadline:
                raise
            gc.collect()  # closes memory maps of this process that are no longer used
            time.sleep(0.05)


def remove_tree(folder: Path) -> None:
    """Remove a folder with its contents, on Windows including read-only files, as on POSIX."""

    def retry_writable(function: Callable[..., Any], path: str, _: Any) -> None:
        os.chmod(path, stat.S_IWRITE)
        retry_while_in_use(function, path)

    shutil.rmtree(folder, onerror=retry_writable if WINDOWS else None)


def bind_exclusive(bound: socket.socket, address: Any) -> None:
    """Bind a socket to an address that no other program listens on, even if one has just stopped."""
    if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows SO_REUSEADDR lets two programs share a port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)


def configure_console_encoding() -> None:
    """Make every text printable, whatever the console's code page.

    Files and pipes whose encoding lacks Chinese get UTF-8; terminals show unsupported characters as escapes.
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
