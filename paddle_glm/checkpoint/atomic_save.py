"""Atomic folders: complete or absent.

A writer fills a hidden temporary folder next to the target; `AtomicSave.commit` flushes it to disk, writes
a manifest and renames it. A crash at any point leaves the old folder unchanged, and a temporary one that
the next writer of the same target removes. Several processes may fill one folder; one begins and commits.
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


class AtomicSave:
    """One save of a folder: fill the temporary folder `path`, then rename it to `target`.

    `begin`, `commit` and `rollback` are for one process; others that add files need `path` alone, which is
    the same everywhere.
    """

    def __init__(self, target: Path | str) -> None:
        self.target = Path(os.path.realpath(target))
        self.path = self.target.with_name(f".{self.target.name}.incomplete")
        self._lock: int | None = None  # the kernel releases it when the process dies

    def begin(self, overwrite: bool = False) -> None:
        """Lock the target and make an empty temporary folder.

        Leftovers of a writer that died are removed. Raises InputError if the target contains files and
        `overwrite` is not set, if it is not a folder written by this package, or if another process is
        writing it.
        """
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InputError(f"{self.target.parent} is a file, expected a folder") from None
        self._lock = _acquire_folder_lock(self.target)
        try:
            backup = _backup_path(self.target)
            if backup.exists():  # a writer died between two renames
                remove_tree(backup) if self.target.exists() else os.rename(backup, self.target)
            check_overwritable(self.target, overwrite)
            if self.path.exists():
                remove_tree(self.path)
            self.path.mkdir()
        except BaseException:
            self._release_lock()
            raise

    def commit(self) -> None:
        """Write the manifest, flush everything to disk and replace `target` with the folder."""
        write_manifest(self.path)
        for folder, _, names in os.walk(self.path):
            for name in names:
                flush(Path(folder, name))
            flush(Path(folder))
        if self.target.exists():
            try:
                _swap_folders(self.path, self.target)
            except PermissionError as error:
                raise _folder_in_use_error(self.path, self.target) from error
            flush(self.target.parent)
            remove_tree(self.path)
        else:
            retry_while_in_use(os.rename, self.path, self.target)
            flush(self.target.parent)
        self._release_lock()

    def rollback(self) -> None:
        """Remove the temporary folder; the target stays as it was."""
        with suppress(OSError):
            remove_tree(self.path)
        self._release_lock()

    def _release_lock(self) -> None:
        if self._lock is not None:
            release_lock(self._lock, _lock_path(self.target))
            self._lock = None


@contextmanager
def atomic_folder(target: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder: renamed to `target` if the block succeeds, removed if it raises."""
    save = AtomicSave(target)
    save.begin(overwrite)
    try:
        yield save.path
        save.commit()
    except BaseException:
        save.rollback()
        raise


def remove_folder_atomically(target: Path | str) -> None:
    """Remove a folder written by `AtomicSave`; a crash leaves it complete, or as a leftover.

    Raises InputError if another process is writing it.
    """
    save = AtomicSave(target)
    with _folder_lock(save.target):
        if save.path.exists():
            remove_tree(save.path)
        retry_while_in_use(os.rename, save.target, save.path)
        remove_tree(save.path)


def remove_leftovers(parent: Path | str, names: str = "*") -> None:
    """Remove temporary folders in `parent` whose writer died; those in use stay.

    names: glob pattern of the targets' names.
    """
    for temporary in Path(parent).glob(f".{names}.incomplete"):
        target = temporary.with_name(temporary.name[1:].removesuffix(".incomplete"))
        if temporary.is_dir():
            with suppress(InputError), _folder_lock(target):
                remove_tree(temporary)


def write_manifest(folder: Path) -> None:
    """Record size and xxh3_128 digest of every file below `folder` in `folder/manifest.json`."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(SIDECAR_SUFFIX) and path.name != MANIFEST:
            files[path.relative_to(folder).as_posix()] = pop_file_record(path)
    text = json.dumps({"version": 1, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path | str) -> dict[str, dict[str, Any]] | None:
    """{relative path: {"size", "xxh3_128"}} from a folder's manifest; None if it has no readable one."""
    try:
        files = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))["files"]
        return files if all(isinstance(record, dict) for record in files.values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def is_complete(folder: Path | str) -> bool:
    """Whether the folder has a manifest and every listed file has its size; digests are not checked."""
    files = read_manifest(folder)
    if files is None:
        return False
    try:
        return all(os.path.getsize(Path(folder) / name) == record["size"] for name, record in files.items())
    except (OSError, KeyError, TypeError):
        return False


def files_not_in_manifest(folder: Path | str) -> list[str]:
    """Files below `folder` that its manifest does not list: those added after it was written."""
    folder = Path(folder)
    known = {MANIFEST, *(read_manifest(folder) or ())}
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [name for name in names if name not in known and not name.endswith(SIDECAR_SUFFIX)]


def check_file_sizes(folder: Path | str) -> None:
    """Raise InputError for the first file that is missing or whose size differs from the manifest.

    A folder without a manifest, such as a hub download, passes.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return
    files = read_manifest(folder)
    if files is None:
        raise InputError(f"{folder / MANIFEST} is damaged: it lists no files; the copy is not complete")
    for name, record in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != record.get("size"):
            actual = "missing" if size is None else f"{size} bytes long"
            raise InputError(
                f"{path} is {actual}, {MANIFEST} says {record.get('size')}: the copy is not complete"
            )


def latest_complete(parent: Path | str, stem: str = "checkpoint-") -> Path | None:
    """The complete folder `parent/stemN` with the greatest number N; None if there is none."""
    pattern = re.compile(re.escape(stem) + r"(\d+)")
    complete = [
        (int(match[1]), path)
        for path in Path(parent).glob(f"{stem}*")
        if (match := pattern.fullmatch(path.name)) and is_complete(path)
    ]
    return max(complete)[1] if complete else None


def check_overwritable(target: Path, overwrite: bool) -> None:
    """Raise InputError if `target` is a file, or a folder that `AtomicSave.begin` may not replace."""
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
            f"{target} has no {MANIFEST}, so it is not replaced: remove it yourself or choose another folder"
        )
    if inner := sorted(path.parent for path in target.glob(f"*/{MANIFEST}")):
        raise InputError(
            f"{target} is not replaced: it contains {inner[0].name}, which has its own {MANIFEST}; move "
            "it or choose another folder"
        )


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _backup_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


@contextmanager
def _folder_lock(target: Path) -> Iterator[None]:
    lock = _acquire_folder_lock(target)
    try:
        yield
    finally:
        release_lock(lock, _lock_path(target))


def _acquire_folder_lock(target: Path) -> int:
    path = _lock_path(target)
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


def _swap_folders(first: Path, second: Path) -> None:
    """Swap two folders atomically, so that both names always exist."""
    renameat2 = getattr(c_library(), "renameat2", None)
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if renameat2 is not None and renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno() if renameat2 is not None else errno.ENOSYS
    if code not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        raise OSError(code, os.strerror(code), str(second))
    # Other systems and some network file systems cannot swap. The next `AtomicSave.begin` recovers from a
    # crash between these renames.
    backup = _backup_path(second)
    retry_while_in_use(os.rename, second, backup)
    try:
        retry_while_in_use(os.rename, first, second)
    except OSError:
        os.rename(backup, second)
        raise
    retry_while_in_use(os.rename, backup, first)


def _folder_in_use_error(temporary: Path, target: Path) -> InputError:
    """Rename the finished folder to an unused name: writing it may have taken long."""
    names = (target.with_name(f"{target.name}.new{'' if n == 1 else n}") for n in itertools.count(1))
    finished = next(path for path in names if not path.exists())
    os.rename(temporary, finished)
    return InputError(
        f"{target} cannot be replaced: a program (maybe this one) has a file in it open. It is unchanged, "
        f"and the new folder is complete in {finished}: close what uses {target}, then rename it"
    )
