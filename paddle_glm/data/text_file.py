"""Reading UTF-8 text of any size; other encodings and file types are named, with what to do."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from paddle_glm.errors import InputError

_BLOCK = 1 << 20
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


@contextmanager
def open_text(path: Path, newline: str) -> Iterator[TextIO]:
    """A UTF-8 file, with or without a byte order mark, opened as `open(newline=newline)` does.

    Raises `InputError` for another encoding, with the first invalid byte and a command to convert the file:
    at once where its beginning tells, otherwise when the block reads an invalid byte.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    for beginning, advice in _UNSUPPORTED_MAGIC.items():
        if start.startswith(beginning):
            raise InputError(f"{path} {advice}")
    if (encoding := _detect_utf16_or_utf32(start)) is not None:
        raise InputError(
            f"{path} looks like {encoding[:6]}, expected UTF-8: convert it: {_iconv_command(path, encoding)}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as text:
            yield text
    except UnicodeDecodeError as error:
        raise encoding_error(path) from error


def _detect_utf16_or_utf32(start: bytes) -> str | None:
    """iconv's name of a UTF-16 or UTF-32 encoding, from its mark or from the zero bytes of ASCII text."""
    for mark, name in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return name
    big, little = start[::2].count(0), start[1::2].count(0)
    if max(big, little) <= max(2 * min(big, little), len(start) // 100, 1):
        return None
    return "UTF-16LE" if little > big else "UTF-16BE"


def encoding_error(path: Path) -> InputError:
    """Names the first byte that is not UTF-8; of a file that has one."""
    position, is_ascii = 0, True
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                wrong = position + error.start
                # The bytes before it were valid UTF-8, which they are in GBK only if they are ASCII.
                is_ascii = is_ascii and content[: error.start].isascii()
                guess = "it looks like GBK" if is_ascii and _is_gbk(path) else "if it is GBK"
                return InputError(
                    f"{path}:{line}: byte {wrong} (0x{content[error.start]:02x}) is not UTF-8; "
                    f"{guess}, convert it: {_iconv_command(path, 'GB18030')}"
                )
            position += len(content)
            is_ascii = is_ascii and content.isascii()
    return InputError(f"{path} changed while it was read: try again")


def _is_gbk(path: Path) -> bool:
    try:
        with path.open(encoding="gb18030") as text:
            while text.read(_BLOCK):
                pass
    except UnicodeDecodeError:
        return False
    return True


def _iconv_command(path: Path, encoding: str) -> str:
    target = path.with_name(f"{path.stem}-utf8{path.suffix}")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}"
