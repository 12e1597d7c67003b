"""Check before a long command that its output can be written; nothing is changed on disk."""

import os
from collections.abc import Iterable
from pathlib import Path

from paddle_glm.checkpoint.atomic_save import check_overwritable
from paddle_glm.errors import InputError


def check_output_folder(
    folder: Path | str, flag: str, overwrite: bool = False, allow_existing: bool = False
) -> None:
    """Raise InputError if the output folder of `flag` cannot be written.

    allow_existing: files are added to a folder that may exist; otherwise it must be new, empty, or
    replaceable with `overwrite`.
    """
    path = Path(os.path.realpath(folder))
    if path.exists() and not path.is_dir():
        raise InputError(f"{flag} {folder} is a file: expected a folder or a new name")
    if not allow_existing:
        check_overwritable(path, overwrite)
    _check_parent(path if allow_existing and path.is_dir() else path.parent, f"{flag} {folder}")


def check_sources_outside_output(
    folder: Path | str, flag: str, sources: Iterable[Path | str | None], in_place: bool = False
) -> None:
    """Raise InputError if replacing the output folder of `flag` would remove a source that is still read.

    in_place: a source may be the output folder itself, but not inside it. None sources are skipped.
    """
    output = Path(os.path.realpath(folder))
    for source in sources:
        if source is None:
            continue
        path = Path(os.path.realpath(source))
        if output in path.parents or (output == path and not in_place):
            raise InputError(f"{flag} {folder} is, or contains, the source {source}: choose another folder")


def check_output_file(file: Path | str, flag: str) -> None:
    """Raise InputError if the output file of `flag` cannot be written."""
    path = Path(os.path.realpath(file))
    if path.is_dir():
        raise InputError(f"{flag} {file} is a folder: expected a file, such as {Path(file) / 'answers.json'}")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{flag} {file} is not writable: choose another file or change its permissions")
    _check_parent(path.parent, f"{flag} {file}")


def _check_parent(folder: Path, argument: str) -> None:
    """Missing folders are created, so the nearest existing one must be writable."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{argument}: {nearest} is a file, expected a folder: choose another path")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{argument}: {nearest} is not writable: choose another path or change its permissions"
        )
