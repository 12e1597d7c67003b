"""Folders that are there whole or not at all.

A writer fills a hidden folder beside the target, then `commit_atomic_save` flushes it to disk, writes a
manifest and
renames. A crash at any byte leaves the old folder as it was, and a hidden one that the next writer of
the same target removes. Several processes may fill one folder: one begins and finishes it.
"""

import ctypes
import errno
import itertools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paddle_glm.checkpoint.hashed_file import SIDECAR_SUFFIX, pop_file_record
from paddle_glm.errors import InputError
from paddle_glm.system import c_library, flush, release_lock, remove_tree, retry_while_in_use, try_lock

MANIFEST = "manifest.json"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Temporary folder -> descriptor of its lock; the kernel drops the lock when the process dies.
_locks: dict[Path, int] = {}


def begin_atomic_save(target: Path | str, overwrite: bool = False) -> Path:
    """Make the temporary folder for `target` and return its path, always the same for one target.

    Leftovers of a writer that died are removed. Raises InputError where the target holds files and
    `overwrite` is not given, where it is not a folder of ours, or where another process writes it.
    """
    target = Path(os.path.realpath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{target.parent} is a file, expected a folder") from None
    temporary = temporary_path(target)
    lock = _acquire_folder_lock(_lock_path(target), target)
    try:
        if _backup_path(target).exists():  # a writer died between two renames
            remove_tree(_backup_path(target)) if target.exists() else os.rename(_backup_path(target), target)
        check_overwritable(target, overwrite)
        if temporary.exists():
            remove_tree(temporary)
        temporary.mkdir()
    except BaseException:
        release_lock(lock, _lock_path(target))
        raise
    _locks[temporary] = lock
    return temporary


def commit_atomic_save(temporary: Path, target: Path | str) -> None:
    """Write the manifest, flush everything to disk and put the folder in the place of `target`."""
    target = Path(os.path.realpath(target))
    write_manifest(temporary)
    for folder, _, names in os.walk(temporary):
        for name in names:
            flush(Path(folder, name))
        flush(Path(folder))
    if target.exists():
        try:
            _swap_folders(temporary, target)
        except PermissionError as error:
            raise _folder_in_use_error(temporary, target) from error
        flush(target.parent)
        remove_tree(temporary)
    else:
        retry_while_in_use(os.rename, temporary, target)
        flush(target.parent)
    _release_folder_lock(temporary, target)


def rollback_atomic_save(temporary: Path, target: Path | str) -> None:
    """Remove the temporary folder; the target stays as it was."""
    with suppress(OSError):
        remove_tree(temporary)
    _release_folder_lock(temporary, Path(os.path.realpath(target)))


@contextmanager
def atomic_folder(target: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` where the block succeeds, and vanishes where it does not."""
    temporary = begin_atomic_save(target, overwrite)
    try:
        yield temporary
        commit_atomic_save(temporary, target)
    except BaseException:
        rollback_atomic_save(temporary, target)
        raise


def temporary_path(target: Path | str) -> Path:
    """Where `begin_atomic_save(target)` puts files: ranks that did not call it write there too."""
    target = Path(os.path.realpath(target))
    return target.with_name(f".{target.name}.incomplete")


def remove_folder_atomically(target: Path | str) -> None:
    """Remove a folder that `commit_atomic_save` made, in one step: a crash leaves it whole, or as a leftover.

    Raises InputError where another process writes it.
    """
    target = Path(os.path.realpath(target))
    temporary = temporary_path(target)
    lock = _acquire_folder_lock(_lock_path(target), target)
    try:
        if temporary.exists():
            remove_tree(temporary)
        retry_while_in_use(os.rename, target, temporary)
        remove_tree(temporary)
    finally:
        release_lock(lock, _lock_path(target))


def remove_leftovers(parent: Path | str, names: str = "*") -> None:
    """Remove the temporary folders in `parent` of writers that died; those in use are left alone.

    names: a pattern of the targets' names.
    """
    for temporary in Path(parent).glob(f".{names}.incomplete"):
        if not temporary.is_dir():
            continue
        target = temporary.with_name(temporary.name[1:].removesuffix(".incomplete"))
        try:
            lock = _acquire_folder_lock(_lock_path(target), target)
        except InputError:
            continue
        try:
            remove_tree(temporary)
        finally:
            release_lock(lock, _lock_path(target))


def write_manifest(folder: Path) -> None:
    """Record size and xxh3_128 digest of every file below `folder` in its manifest.json."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(SIDECAR_SUFFIX) and path.name != MANIFEST:
            files[path.relative_to(folder).as_posix()] = pop_file_record(path)
    text = json.dumps({"version": 1, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path | str) -> dict[str, dict[str, Any]] | None:
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


def files_not_in_manifest(folder: Path | str) -> list[str]:
    """Files below `folder` that its manifest does not name: what came into it after it was written."""
    folder = Path(folder)
    known = {MANIFEST, *(read_manifest(folder) or ())}
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [name for name in names if name not in known and not name.endswith(SIDECAR_SUFFIX)]


def check_file_sizes(folder: Path | str) -> None:
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


def check_overwritable(target: Path, overwrite: bool) -> None:
    """Raise InputError where `begin_atomic_save` would refuse: not overwritable, or no folder."""
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
    if inner := sorted(path.parent for path in target.glob(f"*/{MANIFEST}")):
        raise InputError(
            f"{target} is not replaced: it holds {inner[0].name}, which has a {MANIFEST} of its own; move "
            "it, or choose another folder"
        )


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _backup_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _acquire_folder_lock(path: Path, target: Path) -> int:
    while True:
        try:
            lock = retry_while_in_use(os.open, path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OSError(error.errno, f"cannot write here: {error.strerror}", str(target.parent)) from error
        if not try_lock(lock):
            os.close(lock)
            raise InputError(f"{target} is being written by another process: wait for it or choose another")
        # The previous holder may have removed the file between our open and flock.
        if path.exists() and os.path.samestat(os.fstat(lock), os.stat(path)):
            return lock
        os.close(lock)


def _release_folder_lock(temporary: Path, target: Path) -> None:
    lock = _locks.pop(temporary, None)
    if lock is not None:
        release_lock(lock, _lock_path(target))


def _swap_folders(first: Path, second: Path) -> None:
    """Swap two folders in one step, so that at no moment neither is there."""
    renameat2 = getattr(c_library(), "renameat2", None)
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if renameat2 is not None and renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno() if renameat2 is not None else errno.ENOSYS
    if code not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), str(second))
    # Other systems and some network file systems cannot swap. A crash between these renames is mended by
    # the next `begin_atomic_save`.
    backup = _backup_path(second)
    retry_while_in_use(os.rename, second, backup)
    try:
        retry_while_in_use(os.rename, first, second)
    except OSError:
        os.rename(backup, second)
        raise
    retry_while_in_use(os.rename, backup, first)


def _folder_in_use_error(temporary: Path, target: Path) -> InputError:
    """Give the finished folder a name of its own, since the work in it may have been long."""
    backup = next(path for n in itertools.count(1) if not (path := _alternative_path(target, n)).exists())
    os.rename(temporary, backup)
    return InputError(
        f"{target} cannot be replaced: another program, or this one, has a file in it open. It stays as "
        f"it was, and the new one is whole in {backup}: close what uses {target}, then rename it"
    )


def _alternative_path(target: Path, number: int) -> Path:
    return target.with_name(f"{target.name}.new{'' if number == 1 else number}")
