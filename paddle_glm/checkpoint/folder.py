"""Folders that are there whole or not at all.

A writer fills a hidden folder beside the target, then `finish` flushes it to disk, writes a manifest and
renames. A crash at any byte leaves the old folder as it was, and a hidden one that the next writer of
the same target removes. Several processes may fill one folder: one begins and finishes it.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddle_glm.checkpoint.hashed_file import SIDECAR_SUFFIX, take_record
from paddle_glm.errors import InputError

MANIFEST = "manifest.json"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Temporary folder -> descriptor of its lock; the kernel drops the lock when the process dies.
_locks: dict[Path, int] = {}


def begin(target: Path | str, overwrite: bool = False) -> Path:
    """Make the temporary folder for `target` and return its path, always the same for one target.

    Leftovers of a writer that died are removed. Raises InputError where the target holds files and
    `overwrite` is not given, where it is not a folder of ours, or where another process writes it.
    """
    target = Path(os.path.realpath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{target.parent} is a file, expected a folder") from None
    temporary = temporary_of(target)
    lock = _take_lock(_lock_file(target), target)
    try:
        if _kept(target).exists() and not target.exists():
            os.rename(_kept(target), target)
        _check_replaceable(target, overwrite)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
    except BaseException:
        _release(lock, target)
        raise
    _locks[temporary] = lock
    return temporary


def finish(temporary: Path, target: Path | str) -> None:
    """Write the manifest, flush everything to disk and put the folder in the place of `target`."""
    target = Path(os.path.realpath(target))
    write_manifest(temporary)
    for folder, _, names in os.walk(temporary):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))
    if target.exists():
        _exchange(temporary, target)
        _flush(target.parent)
        shutil.rmtree(temporary)
    else:
        os.rename(temporary, target)
        _flush(target.parent)
    _drop_lock(temporary, target)


def abandon(temporary: Path, target: Path | str) -> None:
    """Remove the temporary folder; the target stays as it was."""
    shutil.rmtree(temporary, ignore_errors=True)
    _drop_lock(temporary, Path(os.path.realpath(target)))


@contextmanager
def atomic_folder(target: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` where the block succeeds, and vanishes where it does not."""
    temporary = begin(target, overwrite)
    try:
        yield temporary
        finish(temporary, target)
    except BaseException:
        abandon(temporary, target)
        raise


def temporary_of(target: Path | str) -> Path:
    """Where `begin(target)` puts files: ranks that did not call it write there too."""
    target = Path(os.path.realpath(target))
    return target.with_name(f".{target.name}.incomplete")


def remove_leftovers(parent: Path | str) -> None:
    """Remove the temporary folders in `parent` of writers that died; those in use are left alone."""
    for temporary in Path(parent).glob(".*.incomplete"):
        target = temporary.with_name(temporary.name[1:].removesuffix(".incomplete"))
        try:
            lock = _take_lock(_lock_file(target), target)
        except InputError:
            continue
        try:
            shutil.rmtree(temporary)
        finally:
            _release(lock, target)


def write_manifest(folder: Path) -> None:
    """Record size and xxh3_128 digest of every file below `folder` in its manifest.json."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(SIDECAR_SUFFIX) and path.name != MANIFEST:
            files[path.relative_to(folder).as_posix()] = take_record(path)
    text = json.dumps({"version": 1, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path | str) -> dict[str, dict] | None:
    """{relative path: {"size", "xxh3_128"}} of a folder, None where it has no readable manifest."""
    try:
        files = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))["files"]
        return files if all(isinstance(record, dict) for record in files.values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def is_complete(folder: Path | str) -> bool:
    """Whether a manifest is there and every file in it has its size; digests are not computed."""
    files = read_manifest(folder)
    if files is None:
        return False
    try:
        return all(os.path.getsize(Path(folder) / name) == record["size"] for name, record in files.items())
    except (OSError, KeyError, TypeError):
        return False


def check_sizes(folder: Path | str) -> None:
    """Raise InputError naming the first file that is missing or not as long as the manifest says.

    A folder without a manifest, such as a hub download, passes.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return
    files = read_manifest(folder)
    if files is None:
        raise InputError(f"{folder / MANIFEST} is damaged: it names no files; the copy is not complete")
    for name, record in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != record.get("size"):
            found = "missing" if size is None else f"{size} bytes long"
            raise InputError(
                f"{path} is {found}, {MANIFEST} says {record.get('size')}: the copy is not complete"
            )


def latest_complete(parent: Path | str, prefix: str = "checkpoint-") -> Path | None:
    """The complete folder `parent/prefixN` with the greatest N, None where there is none."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)")
    found = []
    for path in Path(parent).glob(f"{prefix}*"):
        if (match := pattern.fullmatch(path.name)) and is_complete(path):
            found.append((int(match[1]), path))
    return max(found)[1] if found else None


def _check_replaceable(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file, expected a folder or a new name")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target} exists and is not empty: choose another folder or pass --overwrite")
    if not (target / MANIFEST).is_file():
        raise InputError(
            f"{target} has no {MANIFEST}, so it is not replaced: remove it yourself, or choose another"
        )


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _kept(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _take_lock(path: Path, target: Path) -> int:
    while True:
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OSError(error.errno, f"cannot write here: {error.strerror}", str(target.parent)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InputError(
                f"{target} is being written by another process: wait for it or choose another"
            ) from None
        # The previous holder may have removed the file between our open and flock.
        if path.exists() and os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
        os.close(lock)


def _drop_lock(temporary: Path, target: Path) -> None:
    lock = _locks.pop(temporary, None)
    if lock is not None:
        _release(lock, target)


def _release(lock: int, target: Path) -> None:
    # A file that cannot be removed does no harm: the lock goes with the descriptor.
    with suppress(OSError):
        _lock_file(target).unlink(missing_ok=True)
    os.close(lock)


def _exchange(first: Path, second: Path) -> None:
    """Swap two folders in one step, so that at no moment neither is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if renameat2 is not None and renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno() if renameat2 is not None else errno.ENOSYS
    if code not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), str(second))
    # Some network file systems cannot swap. A crash between these renames is mended by the next `begin`.
    kept = _kept(second)
    os.rename(second, kept)
    os.rename(first, second)
    os.rename(kept, first)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
