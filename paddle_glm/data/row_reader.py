"""Reading the rows of a JSON, JSON Lines, CSV, TSV or parquet file, with errors that name file and line.

Files are read as their rows are asked for, so they may be larger than memory. No Paddle, no tokenizer;
parquet needs pyarrow.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from paddle_glm.data.json_array import read_elements
from paddle_glm.data.text_file import open_text
from paddle_glm.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", ".jsonl", *DELIMITERS, ".parquet")
INSTALL_PARQUET = 'pip install -c constraints.txt -e ".[parquet]"'
_MAX_CSV_FIELD = 2**31 - 1  # characters of a CSV field; Python's default limit is 128 Ki
_PARQUET_MAGIC = b"PAR1"


def read_rows(path: Path, wanted: Callable[[int], bool] | None = None) -> Iterator[tuple[int, Any]]:
    """Yield (number, row): the line that a row starts on, in parquet files its index from 1.

    A row of a JSON file is any JSON value; a row of a table is a dict from column names to text (CSV, TSV)
    or Python values (parquet). wanted: called once with the index of each row, from 0; rows that it refuses
    are left out, those of JSON Lines without being parsed. None: all rows. Raises `InputError` for a file
    that cannot be read.
    """
    if path.is_dir():
        found = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES)[:5]
        raise InputError(f"{path} is a folder, expected a file of rows: {', '.join(found) or 'none in it'}")
    if is_json_lines(path):
        with open_text(path, newline="\n") as text:
            yield from _jsonl_rows(text, path, wanted)
        return
    for index, numbered in enumerate(_parquet_rows(path) if is_parquet(path) else _text_rows(path)):
        if wanted is None or wanted(index):
            yield numbered


def is_parquet(path: Path) -> bool:
    """Whether the suffix or the first bytes of a file are those of parquet."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".parquet" or file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def is_json_lines(path: Path) -> bool:
    """Whether a file is neither a table nor an array of rows: it holds one JSON value per line.

    Raises `InputError` for text that is not UTF-8, as far as its beginning tells.
    """
    if path.suffix.lower() in DELIMITERS or is_parquet(path):
        return False
    with open_text(path, newline="\n") as text:
        return _first_character(text) != "["


def _first_character(text: TextIO) -> str:
    """The first character that is no white space; empty without one."""
    while block := text.read(4096):
        if stripped := block.lstrip():
            return stripped[0]
    return ""


def _text_rows(path: Path) -> Iterator[tuple[int, Any]]:
    delimiter = DELIMITERS.get(path.suffix.lower())
    with open_text(path, newline="\n" if delimiter is None else "") as text:
        yield from (read_elements(text, path) if delimiter is None else _csv_rows(text, delimiter, path))


def _jsonl_rows(text: TextIO, path: Path, wanted: Callable[[int], bool] | None) -> Iterator[tuple[int, Any]]:
    index = -1
    for number, line in enumerate(text, 1):
        if line.isspace():
            continue
        index += 1
        if wanted is None or wanted(index):
            yield number, parse_json_line(line.removesuffix("\n"), f"{path}:{number}")


def parse_json_line(line: str | bytes, origin: str) -> Any:
    """The value of a line. Raises `InputError` naming `origin` for one that is not JSON."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{origin}: not JSON ({error.msg} at column {error.colno}): expected one object per "
            "line, or one array of objects"
        ) from error


def _csv_rows(text: TextIO, delimiter: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows keyed by the header; a quoted field may contain delimiters, quotes and line breaks."""
    csv.field_size_limit(_MAX_CSV_FIELD)  # csv has only this global setting
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}:{line}: the row that begins here is not CSV ({error}): a field in quotes ends with "
                "a quote, and quotes within it are doubled"
            ) from error
        if fields is None:
            return
        if not fields:  # a blank line
            continue
        if names is None:
            names = _column_names(fields, f"{path}:{line}")
        elif len(fields) != len(names):
            raise InputError(
                f"{path}:{line}: {len(fields)} fields, expected {len(names)} ({', '.join(names)}): put "
                f"fields that hold {delimiter!r} or line ends into double quotes"
            )
        else:
            yield line, dict(zip(names, fields, strict=True))


def _column_names(fields: list[str], origin: str) -> list[str]:
    names = [name.strip() for name in fields]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"{origin}: the column {twice[0]!r} occurs twice: rename one")
    return names


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: parquet files need pyarrow: {INSTALL_PARQUET}") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet ({error}): write or download it again") from error
