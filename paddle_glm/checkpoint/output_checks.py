"""Whether what a command writes at its end can be written, asked before the work; nothing is changed."""

import os
from collections.abc import Iterable
from pathlib import Path

from paddle_glm.checkpoint.atomic_save import check_overwritable
from paddle_glm.errors import InputError


def check_output_folder(
    folder: Path | str, flag: str, overwrite: bool = False, allow_existing: bool = False
) -> None:
    """Raise InputError where `flag` names a folder that cannot be made.

    allow_existing: files go into a folder that may be there; otherwise it is new, or replaced with
    `overwrite`.
    """
    path = Path(os.path.realpath(folder))
    if path.exists() and not path.is_dir():
        raise InputError(f"{flag} {folder} is a file: expected a folder or a new name")
    if not allow_existing:
        check_overwritable(path, overwrite)
    _check_parent(path if allow_existing and path.is_dir() else path.parent, f"{flag} {folder}")


def check_output_outside_sources(folder: Path | str, flag: str, sources: Iterable[Path | str | None]) -> None:
    """Raise InputError where replacing the folder that `flag` names would remove what is read."""
    outer = Path(os.path.realpath(folder))
    for source in sources:
        if source is None:
            continue
        inner = Path(os.path.realpath(source))
        if outer in (inner, *inner.parents):
            raise InputError(
                f"{flag} {folder} is what is read, or holds it ({source}): choose another folder"
            )


def check_output_file(file: Path | str, flag: str) -> None:
    """Raise InputError where `flag` names a file that cannot be written."""
    path = Path(os.path.realpath(file))
    if path.is_dir():
        raise InputError(f"{flag} {file} is a folder: expected a file, such as {Path(file) / 'answers.json'}")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{flag} {file} cannot be written: give another file, or change its permissions")
    _check_parent(path.parent, f"{flag} {file}")


def _check_parent(folder: Path, given: str) -> None:
    """Folders are made where they are missing, in the nearest one that is there."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{given}: {nearest} is a file, expected a folder: give another path")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{given}: {nearest} cannot be written into: give another path, or change its permissions"
        )
