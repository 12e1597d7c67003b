"""Writing a cache of tokens (`data/token_cache.py` says what its files hold), by several processes at once.

Each part is written by the process that holds its lock, to hidden files that are renamed when they are
complete. The kernel releases the locks of a process that dies; another one then writes the part.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from paddle_glm.data.data_files import Columns, ExampleReader
from paddle_glm.data.row_reader import read_rows
from paddle_glm.data.samples import SampleFormat
from paddle_glm.system import flush, release_lock, try_lock

logger = logging.getLogger(__name__)

COMPLETE_FILE = "complete.json"
_POLL_SECONDS = 0.1
_WAITING_SECONDS = 30.0  # until a log line says what is waited for


def tokens_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.tokens"


def index_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.npz"


def tokenize_file(
    folder: Path, path: Path, columns: Columns | None, form: SampleFormat, rows_per_part: int, progress: bool
) -> None:
    """Tokenize the parts of a file that no other process tokenizes; return when all of them are complete.

    Raises `InputError` for rows that cannot be used, in every process.
    """

    def claim(part: int) -> _PartWriter | None:
        lock = _try_claim(folder, part)
        return None if lock is None else _PartWriter(folder, part, lock, ExampleReader(path, columns), form)

    rows = _write_parts(path, rows_per_part, claim, progress)
    parts = -(-rows // rows_per_part)
    told = time.monotonic()
    # Parts that others have not completed: they are at work, or died.
    while missing := [part for part in range(parts) if not index_path(folder, part).exists()]:
        writer = claim(missing[0])
        if writer is not None:
            _write_parts(path, rows_per_part, {missing[0]: writer}.get)
            continue
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - told > _WAITING_SECONDS:
            logger.warning("waiting for other processes, which tokenize %s", index_path(folder, missing[0]))
            told = time.monotonic()
    complete = {"parts": parts, "rows": rows}
    temporary = folder / f".{COMPLETE_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(complete) + "\n", encoding="utf-8")
    os.replace(temporary, folder / COMPLETE_FILE)


def _write_parts(
    path: Path, rows_per_part: int, claim: Callable[[int], _PartWriter | None], progress: bool = False
) -> int:
    """Write the parts that `claim` gives a writer for; the number of rows of the file."""
    rows = 0
    writer: _PartWriter | None = None

    def wanted(index: int) -> bool:
        nonlocal rows, writer
        if index % rows_per_part == 0:
            if writer is not None:
                writer.commit()
            writer = claim(index // rows_per_part)
        rows = index + 1
        return writer is not None

    try:
        rows_read = read_rows(path, wanted)
        for number, row in tqdm(rows_read, "tokenizing", unit=" rows", delay=2, disable=not progress):
            assert writer is not None
            writer.add(row, number, rows - 1)
        if writer is not None:
            writer.commit()
    except BaseException:
        if writer is not None:
            writer.rollback()
        raise
    return rows


class _PartWriter:
    """Tokenizes the rows of one part, whose lock this process holds."""

    def __init__(self, folder: Path, part: int, lock: int, reader: ExampleReader, form: SampleFormat) -> None:
        self._reader, self._form = reader, form
        self._lock = lock
        self._targets = (tokens_path(folder, part), index_path(folder, part))
        self._temporary = [path.with_name(f".{path.name}") for path in self._targets]
        self._lock_path = _lock_path(folder, part)
        self._tokens: IO[bytes] = self._temporary[0].open("wb")
        self._lengths: list[int] = []
        self._empty: list[tuple[int, int]] = []

    def add(self, row: Any, number: int, index: int) -> None:
        """number: of the row, for messages; index: from 0, in the file."""
        example = self._reader.read(row, number)
        if example is None:
            self._empty.append((index, number))
            return
        rendered = self._form.render(example)
        self._lengths.append(0 if rendered is None else len(rendered.input_ids))
        if rendered is not None:
            ids = np.asarray(rendered.input_ids, dtype="<i4")
            self._tokens.write(np.where(np.asarray(rendered.loss_mask, dtype=bool), ids, ~ids).tobytes())

    def commit(self) -> None:
        self._tokens.close()
        with self._temporary[1].open("wb") as file:
            np.savez(
                file,
                lengths=np.asarray(self._lengths, dtype=np.int32),
                empty=np.asarray(self._empty, dtype=np.int64).reshape(-1, 2),
                seen=np.asarray(list(self._reader.seen), dtype=np.str_),
            )
        for temporary, target in zip(self._temporary, self._targets, strict=True):
            flush(temporary)
            os.replace(temporary, target)  # the index last: it says that the part is complete
        release_lock(self._lock, self._lock_path)

    def rollback(self) -> None:
        self._tokens.close()
        for temporary in self._temporary:
            temporary.unlink(missing_ok=True)
        release_lock(self._lock, self._lock_path)


def _lock_path(folder: Path, part: int) -> Path:
    return folder / f".part-{part:05d}.lock"


def _try_claim(folder: Path, part: int) -> int | None:
    """The lock of a part that is still to be written; None if it is complete or another process's."""
    if index_path(folder, part).exists():
        return None
    path = _lock_path(folder, part)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not try_lock(lock):
        os.close(lock)
        return None
    # Its former holder may have completed the part, or removed the file between our open and our lock.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock), os.stat(path)) and not index_path(folder, part).exists():
            return lock
    os.close(lock)
    return None
