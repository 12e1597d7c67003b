"""Reading the rows of a JSON, JSON Lines, CSV, TSV or parquet file, with errors that name file and line.

No Paddle, no tokenizer; parquet needs pyarrow.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paddle_glm.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", ".jsonl", *DELIMITERS, ".parquet")
INSTALL_PARQUET = 'pip install -c constraints.txt -e ".[parquet]"'
_MAX_CSV_FIELD = 2**31 - 1  # characters of a CSV field; Python's default limit is 128 Ki
_PARQUET_MAGIC = b"PAR1"
# First bytes of file types that are not read -> what to do with such a file.
_UNSUPPORTED_MAGIC = {
    b"PK\x03\x04": 'is a zip archive, as .xlsx files are: save the sheet as "CSV UTF-8"',
    b"\xd0\xcf\x11\xe0": 'is an Excel workbook: save the sheet as "CSV UTF-8"',
    b"\x1f\x8b": "is compressed: unpack it with gunzip",
}
_BYTE_ORDER_MARKS = {  # the longer first: UTF-32 LE starts with the mark of UTF-16 LE
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number, row): the line that a row starts on, in parquet files its index from 1.

    A row of a JSON file is any JSON value; a row of a table is a dict from column names to text (CSV, TSV)
    or Python values (parquet). Raises `InputError` for a file that cannot be read.
    """
    if path.is_dir():
        found = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES)[:5]
        raise InputError(f"{path} is a folder, expected a file of rows: {', '.join(found) or 'none in it'}")
    if is_parquet(path):
        yield from _parquet_rows(path)
        return
    text = read_text(path)
    if (delimiter := DELIMITERS.get(path.suffix.lower())) is not None:
        yield from _csv_rows(text, delimiter, path)
    elif text.lstrip()[:1] == "[":
        yield from _json_array_rows(text, path)
    else:
        yield from _jsonl_rows(text, path)


def is_parquet(path: Path) -> bool:
    """Whether the suffix or the first bytes of a file are those of parquet."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".parquet" or file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises `InputError` for another encoding, with the first invalid byte and a command to convert the file.
    """
    content = path.read_bytes()
    for beginning, advice in _UNSUPPORTED_MAGIC.items():
        if content.startswith(beginning):
            raise InputError(f"{path} {advice}")
    if (encoding := _detect_utf16_or_utf32(content)) is not None:
        raise InputError(
            f"{path} looks like {encoding[:6]}, expected UTF-8: convert it: {_iconv_command(path, encoding)}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        guess = "it looks like GBK" if _may_be_gbk(content, error.start) else "if it is GBK"
        raise InputError(
            f"{path}:{line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8; "
            f"{guess}, convert it: {_iconv_command(path, 'GB18030')}"
        ) from error


def _detect_utf16_or_utf32(content: bytes) -> str | None:
    """iconv's name of a UTF-16 or UTF-32 encoding, from its mark or from the zero bytes of ASCII text."""
    for mark, name in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return name
    start = content[:4096]
    big, little = start[::2].count(0), start[1::2].count(0)
    if max(big, little) <= max(2 * min(big, little), len(start) // 100, 1):
        return None
    return "UTF-16LE" if little > big else "UTF-16BE"


def _may_be_gbk(content: bytes, wrong: int) -> bool:
    if not content[:wrong].isascii():  # the bytes before it were valid UTF-8
        return False
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return True


def _iconv_command(path: Path, encoding: str) -> str:
    target = path.with_name(f"{path.stem}-utf8{path.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}"


def _jsonl_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}: not JSON ({error.msg} at column {error.colno}): expected one object per "
                "line, or one array of objects"
            ) from error


def _json_array_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Decode the elements one by one, to know the line of each."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _skip_whitespace(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})"
            ) from error
        yield line, value
        position = _skip_whitespace(text, position)
        if text[position : position + 1] == ",":
            position = _skip_whitespace(text, position + 1)
        elif text[position : position + 1] != "]":
            found = text[position : position + 20] or "the end of the file"
            line += text.count("\n", counted, position)
            raise InputError(f"{path}:{line}: expected ',' or ']' after a row, found {found!r}")
    rest = text[position + 1 :].strip()
    if rest:
        raise InputError(f"{path}: found {rest[:20]!r} after the array of rows: put all rows into one array")


def _skip_whitespace(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def _csv_rows(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows keyed by the header; a quoted field may contain delimiters, quotes and line breaks."""
    csv.field_size_limit(_MAX_CSV_FIELD)  # csv has only this global setting
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
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
