"""Samples of a JSON Lines file that are read and tokenized when they are asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.data.data_files import Columns, ExampleReader
from paddle_glm.data.row_formats import Example
from paddle_glm.data.row_reader import is_json_lines, parse_json_line
from paddle_glm.data.samples import Sample, SampleFormat
from paddle_glm.data.text_file import encoding_error
from paddle_glm.errors import InputError

logger = logging.getLogger(__name__)

_BLOCK = 1 << 24  # bytes
_NEWLINE = 10
_CHECKED_ROWS = 100
_MAX_WARNINGS = 5


class LazyRows:
    """The lines of a JSON Lines file, of which only the offsets are in memory; blank ones are left out.

    lengths: bytes of each row, int32 [rows]. Raises `InputError` for another kind of file, and for one
    without rows.
    """

    def __init__(self, path: Path, columns: Columns | None, form: SampleFormat) -> None:
        """columns: as in `load_examples`."""
        if not is_json_lines(path):
            raise InputError(
                f"--lazy reads JSON Lines alone (one object per line), not {path}: convert it, or give "
                "--dataset_cache FOLDER instead"
            )
        self.path, self.form = path, form
        ends = _line_ends(path)
        starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))[: len(ends)]
        # "\r\n" or less; lines of more white space are met as rows, and left out then.
        filled = ends - starts > 2
        self._starts, self.lengths = starts[filled], (ends - starts)[filled].astype(np.int32)
        self._numbers = np.flatnonzero(filled) + 1 if not filled.all() else None  # of the lines, from 1
        self._reader = ExampleReader(path, columns)
        if not len(self):
            raise InputError(f"{path} holds no usable row")

    def __len__(self) -> int:
        return len(self._starts)

    def number(self, index: int) -> int:
        """The number of a row's line, from 1."""
        return index + 1 if self._numbers is None else int(self._numbers[index])

    def example(self, index: int) -> Example | None:
        """The conversation of a row; None for an empty one. Raises `InputError` naming file, line, reason."""
        number = self.number(index)
        with self.path.open("rb", buffering=0) as file:  # anew: processes that load batches share no position
            file.seek(int(self._starts[index]))
            line = file.read(int(self.lengths[index])).strip()
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise encoding_error(self.path) from error
        return self._reader.read(parse_json_line(text, f"{self.path}:{number}"), number) if text else None

    def examples(self, indices: IntArray) -> list[Example]:
        """The conversations of those rows that are not empty."""
        found = (self.example(int(index)) for index in indices)
        return [example for example in found if example is not None]

    def dataset(self, indices: IntArray) -> LazyDataset:
        return LazyDataset(self, indices)


class LazyDataset:
    """Training samples of some rows, tokenized when they are asked for.

    A row that cannot be trained on, because it is empty or has no target left, gives the sample of the next
    one that can; the first few are named in warnings.

    lengths: bytes of each row, which order them about as their tokens do.

    The first rows are checked at once. Raises `InputError` if none of them can be trained on, or for a row
    that is wrong; further ones are met when they are asked for.
    """

    def __init__(self, rows: LazyRows, indices: IntArray) -> None:
        self.rows, self.form, self._indices = rows, rows.form, indices
        self._warnings = 0
        first = [self._sample(index) for index in range(min(len(indices), _CHECKED_ROWS))]
        if not any(sample is not None for sample in first):
            rows.form.check_dropped(len(first), len(first))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        for step in range(len(self)):
            sample = self._sample((index + step) % len(self))
            if sample is not None:
                return sample
        raise InputError(f"{self.rows.path} changed: it holds no usable row any more")

    @property
    def lengths(self) -> Array:
        lengths: Array = self.rows.lengths[self._indices]
        return lengths

    def _sample(self, index: int) -> Sample | None:
        row = int(self._indices[index])
        example = self.rows.example(row)
        rendered = None if example is None else self.form.render(example)
        if rendered is not None:
            return self.form.sample(rendered)
        if self._warnings < _MAX_WARNINGS:
            self._warnings += 1
            reason = "its question or answer is empty" if example is None else "no answer is left"
            more = ", and more like it are not named" if self._warnings == _MAX_WARNINGS else ""
            logger.warning("%s:%d is left out: %s%s", self.rows.path, self.rows.number(row), reason, more)
        return None


def _line_ends(path: Path) -> IntArray:
    """Offsets behind each line of a file, int64 [lines]; a last line may lack its line break."""
    ends, position, last = [np.zeros(0, np.int64)], 0, _NEWLINE
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            content = np.frombuffer(block, np.uint8)
            ends.append(np.flatnonzero(content == _NEWLINE) + (position + 1))
            position, last = position + len(block), block[-1]
    if last != _NEWLINE:
        ends.append(np.asarray([position]))
    return np.concatenate(ends)
