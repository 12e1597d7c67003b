"""Reading the elements of a JSON array one by one, from a text that may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from paddle_glm.errors import InputError

_BLOCK = 1 << 20  # characters
# An error so close to the end of what was read may come from the cut, as in `nul` or `\u12`.
_LONGEST_TOKEN = 16
# And so close to it a number may go on: 1.5 in `1.5e+`.
_NUMBER_CUT = 2


def read_elements(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of each element of the array that is the whole text.

    path: for errors. Raises `InputError` with line and reason for what is not JSON.
    """
    text = _Window(file)
    text.skip_whitespace()
    text.position += 1  # the bracket
    following = text.skip_whitespace()
    while following != "]":
        line = text.line()
        yield line, _decode(text, path)
        following = text.skip_whitespace()
        if following == ",":
            text.position += 1
            following = text.skip_whitespace()
        elif following != "]":
            found = text.rest[text.position : text.position + 20] or "the end of the file"
            raise InputError(f"{path}:{text.line()}: expected ',' or ']' after a row, found {found!r}")
    text.position += 1
    if text.skip_whitespace():
        found = text.rest[text.position : text.position + 20].rstrip()
        raise InputError(f"{path}: found {found!r} after the array of rows: put all rows into one array")


class _Window:
    """A part of a text: `rest`, read up to `position`; `grow` drops what is before it and reads on."""

    def __init__(self, file: TextIO) -> None:
        self.rest, self.position, self.ended = "", 0, False
        self._file = file
        self._line, self._counted = 1, 0  # the line of rest[_counted]
        self._column = 0  # of rest[0]

    def grow(self) -> None:
        self.line()
        self._column = self.column(self.position)
        unread = self.rest[self.position :]
        block = self._file.read(max(_BLOCK, len(unread)))
        self.rest, self.position, self._counted = unread + block, 0, 0
        self.ended = not block

    def line(self) -> int:
        """The line of `position`, from 1."""
        self._line += self.rest.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def column(self, position: int) -> int:
        """The column of a position in `rest`, from 0."""
        start = self.rest.rfind("\n", 0, position) + 1
        return position - start + (0 if start else self._column)

    def skip_whitespace(self) -> str:
        """Move to the next character that is no white space, and return it; "" at the end of the text."""
        while True:
            while (character := self.rest[self.position : self.position + 1]).isspace():
                self.position += 1
            if character or self.ended:
                return character
            self.grow()


_decoder = json.JSONDecoder()


def _decode(text: _Window, path: Path) -> Any:
    """The value at the window's position, which moves behind it."""
    while True:
        try:
            value, end = _decoder.raw_decode(text.rest, text.position)
        except json.JSONDecodeError as error:
            may_be_cut = (
                error.msg.startswith("Unterminated string") or error.pos > len(text.rest) - _LONGEST_TOKEN
            )
            if text.ended or not may_be_cut:
                line = text.line() + text.rest.count("\n", text.position, error.pos)
                column = text.column(error.pos) + 1
                raise InputError(f"{path}:{line}: not JSON ({error.msg} at column {column})") from error
        else:
            if text.ended or end + _NUMBER_CUT < len(text.rest):
                text.position = end
                return value
        text.grow()
