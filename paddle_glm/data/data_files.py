"""Finding data files, loading their examples, splitting off validation rows; no Paddle, no tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import IntArray
from paddle_glm.data.row_formats import Columns, Example, abbreviate, detect_columns, read_example
from paddle_glm.data.row_reader import SUFFIXES, is_parquet, read_rows
from paddle_glm.errors import InputError

__all__ = [
    "Columns",
    "DataFiles",
    "Example",
    "ExampleReader",
    "check_examples",
    "existing_path",
    "find_data_files",
    "load_examples",
    "split_validation",
]

logger = logging.getLogger(__name__)

VALIDATION_FRACTION = 0.02
MAX_VALIDATION_ROWS = 1000
_SPLIT_FILE_STEMS = {"train": ("train",), "validation": ("dev", "valid", "eval"), "test": ("test",)}


@dataclass(frozen=True)
class DataFiles:
    """The file of each split; None if there is none."""

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None


def find_data_files(
    task_name_or_path: str | Path | None = None,
    train_file: str | Path | None = None,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
) -> DataFiles:
    """The files of a task folder, or a single training file; the other arguments override a split.

    In a folder, `train.json`, `dev.json` (or `valid...`, `eval...`) and `test.json` are taken, also as
    `.jsonl`, `.csv`, `.tsv` or `.parquet`, else the only file whose name starts with one of these stems
    (`train_first5000.json`). If the folder has a single data file, it is the training file. Raises
    `InputError` for missing files and ambiguous names.
    """
    named = {
        part: existing_path(value, f"--{part}_file")
        for part, value in (("train", train_file), ("validation", validation_file), ("test", test_file))
        if value is not None
    }
    found = DataFiles()
    if task_name_or_path is not None:
        path = existing_path(task_name_or_path, "--task_name_or_path")
        found = _find_in_folder(path, named) if path.is_dir() else DataFiles(train=path)
    return replace(found, **named)


def existing_path(value: str | Path, flag: str) -> Path:
    """`value` as a path, Windows' backslashes accepted; raises `InputError` if it is missing."""
    for path in (Path(value), Path(str(value).replace("\\", "/"))):
        if path.exists():
            return path
    raise InputError(
        f"{flag} {value} not found: expected a folder with train.json and dev.json, or a data file "
        "(data sets are not downloaded)"
    )


def load_examples(
    path: str | Path, columns: Columns | None = None, require_answer: bool = True, limit: int | None = None
) -> list[Example]:
    """Read the conversations of a file: a JSON array, JSON lines, CSV, TSV or parquet.

    columns: keys to read; None detects them, again for each row that has other keys. require_answer:
    whether every conversation must end with an answer (false for prediction). limit: maximum number of
    examples.

    Rows with an empty question or answer are skipped with a warning, as in THUDM's scripts. Raises
    `InputError` with file, line and reason for every other unusable row.
    """
    path = Path(path)
    examples: list[Example] = []
    reader = ExampleReader(path, columns, require_answer)
    for number, row in read_rows(path):
        example = reader.read(row, number)
        if example is not None:
            examples.append(example)
        if limit is not None and len(examples) >= limit:
            break
    check_examples(path, len(examples), reader.empty, columns, reader.seen)
    return examples


class ExampleReader:
    """Turns the rows of a file into examples. `empty`: numbers of the rows without a question or an answer;
    `seen`: all keys that rows had.
    """

    def __init__(self, path: Path, columns: Columns | None, require_answer: bool = True) -> None:
        """columns, require_answer: as in `load_examples`."""
        self.path, self.columns, self.require_answer = path, columns, require_answer
        self.empty: list[int] = []
        self.seen: dict[str, None] = {}  # in the order that they were met
        self._chosen = columns

    def read(self, row: Any, number: int) -> Example | None:
        """The example of a row, None for an empty one. Raises `InputError` naming file and row."""
        origin = f"{self.path}:{number}"
        if not isinstance(row, dict):
            raise InputError(f"{origin}: expected an object, found {abbreviate(row)}")
        self.seen.update(dict.fromkeys(row))
        if self._chosen is None or (self.columns is None and not self._chosen.matches(row)):
            self._chosen = detect_columns(row, self.require_answer, origin)
        example = read_example(row, self._chosen, self.require_answer, origin)
        if example.is_empty:
            self.empty.append(number)
            return None
        return example


def check_examples(
    path: Path, count: int, empty: Sequence[int], columns: Columns | None, seen: Collection[str]
) -> None:
    """Warn of the empty rows of a file; raise `InputError` if no row is left, or none had the history column.

    count: usable rows. empty: numbers of the empty rows. seen: all keys of its rows.
    """
    if len(empty):
        unit = "rows" if is_parquet(path) else "lines"
        places = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        logger.warning(
            "%s: left out %d rows with an empty question or answer (%s %s)", path, len(empty), unit, places
        )
    if not count:
        raise InputError(f"{path} holds no usable row")
    if columns is not None and columns.history is not None and columns.history not in seen:
        raise InputError(f"{path}: no row has the history column {columns.history!r}; met {', '.join(seen)}")


def split_validation(rows: int, seed: int = 42) -> tuple[IntArray, IntArray]:
    """Indices of the training and of the validation rows, for data without a validation file.

    2 % of the rows (at least 1, at most 1000) become validation rows, chosen by `seed` alone. Both are in
    the order of the file. Raises `InputError` for fewer than 2 rows.
    """
    if rows < 2:
        raise InputError(f"{rows} row cannot be parted into training and validation: give --validation_file")
    count = min(max(round(rows * VALIDATION_FRACTION), 1), MAX_VALIDATION_ROWS)
    validation = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    return np.delete(np.arange(rows), validation), validation


def _find_in_folder(folder: Path, named: Collection[str]) -> DataFiles:
    """The splits found in a folder, except those in `named`, whose files are given."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    parts: dict[str, Path] = {}
    for part, stems in _SPLIT_FILE_STEMS.items():
        if part in named:
            continue
        candidates = [path for path in files if path.stem.lower().startswith(stems)]
        exact = [path for path in candidates if path.stem.lower() in (*stems, part)]
        choice = exact or candidates
        if len(choice) > 1:
            names = ", ".join(path.name for path in choice)
            raise InputError(
                f"{folder} holds {names}: give the file itself in place of the folder, or (finetune) "
                f"--{part}_file too"
            )
        if choice:
            parts[part] = choice[0]
    if not parts and "train" not in named and len(files) == 1:
        parts["train"] = files[0]
    if not parts and not named:
        names = ", ".join(path.name for path in files) or f"no file of rows ({', '.join(SUFFIXES)})"
        raise InputError(
            f"{folder} holds {names}: expected train.json and dev.json; give the file itself in place of the "
            "folder, or (finetune) --train_file too"
        )
    return DataFiles(**parts)
