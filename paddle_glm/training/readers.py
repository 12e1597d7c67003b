"""Data files to conversations: which files, which encoding, which columns; bad rows are named.

Needs neither paddle nor a tokenizer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.chat import Message, from_history
from paddle_glm.errors import InputError

logger = logging.getLogger(__name__)

HELD_OUT_SHARE = 0.02
HELD_OUT_MOST = 1000
_SUFFIXES = (".json", ".jsonl")
_STEMS = {"train": ("train",), "validation": ("dev", "valid", "eval"), "test": ("test",)}
_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names for the two


@dataclass(frozen=True)
class Columns:
    """Keys of a row. `input` continues the question; `messages` is a whole conversation and stands alone."""

    prompt: str | None = None
    response: str | None = None
    history: str | None = None
    input: str | None = None
    messages: str | None = None


# Layouts that are recognised by their keys, first match first.
_LAYOUTS = (
    Columns(messages="messages"),
    Columns(messages="conversations"),
    Columns(prompt="content", response="summary"),  # AdvertiseGen
    Columns(prompt="instruction", response="output", input="input", history="history"),  # BELLE, Alpaca
    Columns(prompt="src", response="tgt"),  # PaddleNLP
    Columns(prompt="prompt", response="response", history="history"),  # THUDM
    Columns(prompt="query", response="response", history="history"),
    Columns(prompt="question", response="answer", history="history"),
)


@dataclass(frozen=True)
class Example:
    """One conversation. `origin` is "file:line"; an unanswered one ends with the user's message."""

    messages: tuple[Message, ...]
    origin: str = ""

    @property
    def answer(self) -> str | None:
        """The text of the last message if the assistant spoke it."""
        last = self.messages[-1]
        return last["content"] if last["role"] == "assistant" else None

    @property
    def question(self) -> tuple[Message, ...]:
        """All messages before the last answer."""
        return self.messages if self.answer is None else self.messages[:-1]


@dataclass(frozen=True)
class DataFiles:
    """Where the rows of each part are; None where there is no such file."""

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None


def find_files(
    task_name_or_path: str | Path | None = None,
    train_file: str | Path | None = None,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
) -> DataFiles:
    """Files of a task folder, or a single file to train on; a file named by itself wins.

    In a folder, `train.json`, `dev.json` (or `valid...`, `eval...`) and `test.json`, `.jsonl` too, are
    taken, else the only file whose name begins so (`train_first5000.json`); a folder's only data file is
    for training. Raises InputError for what is not there and for names that leave a choice.
    """
    found = DataFiles()
    if task_name_or_path is not None:
        path = existing_path(task_name_or_path, "--task_name_or_path")
        found = _files_of_folder(path) if path.is_dir() else DataFiles(train=path)
    named = {
        part: existing_path(value, f"--{part}_file")
        for part, value in (("train", train_file), ("validation", validation_file), ("test", test_file))
        if value is not None
    }
    return replace(found, **named)


def existing_path(value: str | Path, flag: str) -> Path:
    """A path that exists; one written with Windows' backslashes is understood everywhere."""
    for path in (Path(value), Path(str(value).replace("\\", "/"))):
        if path.exists():
            return path
    raise InputError(
        f"{flag} {value} not found: expected a folder with train.json and dev.json, or a data file "
        "(data sets are not downloaded)"
    )


def load_rows(
    path: str | Path, columns: Columns | None = None, answers: bool = True, limit: int | None = None
) -> list[Example]:
    """Read a JSON array or JSON-lines file of conversations.

    columns: keys to read; None finds them. answers: every conversation must end with an answer; without,
    rows may lack it (for prediction). limit: rows to read at most.

    Rows whose question or answer is empty are left out with a warning, as the originals do. Raises
    InputError with file, line and reason for anything else that cannot be used.
    """
    path = Path(path)
    examples: list[Example] = []
    empty: list[int] = []
    chosen = columns
    met: set[str] = set()
    for line, row in _rows(path):
        origin = f"{path}:{line}"
        if not isinstance(row, dict):
            raise InputError(f"{origin}: expected an object, found {_short(row)}")
        met.update(row)
        chosen = chosen or _find_columns(row, answers, origin)
        messages = _messages(row, chosen, answers, origin)
        last = 2 if messages[-1]["role"] == "assistant" else 1
        if all(message["content"].strip() for message in messages[-last:]):
            examples.append(Example(tuple(messages), origin))
        else:
            empty.append(line)
        if limit is not None and len(examples) >= limit:
            break
    if empty:
        lines = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        logger.warning(
            "%s: left out %d rows with an empty question or answer (lines %s)", path, len(empty), lines
        )
    if not examples:
        raise InputError(f"{path} holds no usable row")
    if columns is not None and columns.history is not None and columns.history not in met:
        raise InputError(f"{path}: no row has the history column {columns.history!r}; met {', '.join(met)}")
    return examples


def hold_out(examples: list[Example], seed: int = 42) -> tuple[list[Example], list[Example]]:
    """Part rows into training and validation, for data without a validation file.

    2 % of the rows (at least 1, at most 1000), chosen by the seed alone, are held out; both parts keep
    the order of the file.
    """
    if len(examples) < 2:
        raise InputError(
            f"{len(examples)} row cannot be parted into training and validation: give --validation_file"
        )
    count = min(max(round(len(examples) * HELD_OUT_SHARE), 1), HELD_OUT_MOST)
    chosen = set(np.random.default_rng(seed).permutation(len(examples))[:count].tolist())
    parts: tuple[list[Example], list[Example]] = ([], [])
    for index, example in enumerate(examples):
        parts[index in chosen].append(example)
    return parts


def _files_of_folder(folder: Path) -> DataFiles:
    files = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    parts: dict[str, Path] = {}
    for part, stems in _STEMS.items():
        candidates = [path for path in files if path.stem.lower().startswith(stems)]
        exact = [path for path in candidates if path.stem.lower() in (*stems, part)]
        choice = exact or candidates
        if len(choice) > 1:
            names = ", ".join(path.name for path in choice)
            raise InputError(f"{folder} holds {names}: name one with --{part}_file")
        if choice:
            parts[part] = choice[0]
    if not parts and len(files) == 1:
        parts["train"] = files[0]
    if not parts:
        names = ", ".join(path.name for path in files) or "no .json or .jsonl file"
        raise InputError(f"{folder} holds {names}: expected train.json and dev.json, or name --train_file")
    return DataFiles(**parts)


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark; raises InputError naming the first wrong byte."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8; if the file is "
            f"GB18030, convert it: iconv -f GB18030 -t UTF-8 {path.name} > new.json"
        ) from error


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every row of a JSON array or of JSON lines."""
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        yield from _array_rows(text, path)
        return
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


def _array_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Elements one by one, so that each is known by its line."""
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    position = _skip_blank(text, text.index("[") + 1)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})"
            ) from error
        yield line, value
        position = _skip_blank(text, position)
        if text[position : position + 1] == ",":
            position = _skip_blank(text, position + 1)
        elif text[position : position + 1] != "]":
            found = text[position : position + 20] or "the end of the file"
            line += text.count("\n", counted, position)
            raise InputError(f"{path}:{line}: expected ',' or ']' after a row, found {found!r}")
    rest = text[position + 1 :].strip()
    if rest:
        raise InputError(f"{path}: found {rest[:20]!r} after the array of rows: put all rows into one array")


def _skip_blank(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def _find_columns(row: dict[str, Any], answers: bool, origin: str) -> Columns:
    """The first known layout whose keys this row has, an answer being optional without `answers`."""
    for layout in _LAYOUTS:
        if layout.messages is not None:
            if layout.messages in row:
                return layout
        elif layout.prompt in row and (layout.response in row or not answers):
            return layout
    known = "; ".join(" + ".join(filter(None, (c.messages, c.prompt, c.response))) for c in _LAYOUTS)
    raise InputError(
        f"{origin}: no known columns among {', '.join(row) or 'none'} (known: {known}): "
        "name them with --prompt_column and --response_column"
    )


def _messages(row: dict[str, Any], columns: Columns, answers: bool, origin: str) -> list[Message]:
    if columns.messages is not None:
        return _conversation(row, columns.messages, answers, origin)
    if columns.prompt is None or (answers and columns.response is None):
        raise InputError("--prompt_column and --response_column go together: give both or neither")
    questions = _texts(row, columns.prompt, origin)
    # To be answered, a row may lack the answer, or hold an empty one as test files do.
    has_answer = answers or row.get(columns.response or "") not in (None, "")
    replies = _texts(row, columns.response, origin) if has_answer and columns.response else []
    if len(questions) - len(replies) not in ((0,) if answers else (0, 1)):
        raise InputError(
            f"{origin}: {len(questions)} entries in {columns.prompt!r} but {len(replies)} in "
            f"{columns.response!r}: each question needs its answer"
        )
    extra = row.get(columns.input) if columns.input is not None else None
    if extra:
        questions[-1] += "\n" + _text(extra, columns.input, origin)
    earlier = list(_history(row, columns.history, origin)) + list(zip(questions[:-1], replies, strict=False))
    messages = from_history(questions[-1], earlier)
    if len(replies) == len(questions):
        messages.append({"role": "assistant", "content": replies[-1]})
    return messages


def _conversation(row: dict[str, Any], column: str, answers: bool, origin: str) -> list[Message]:
    """Role objects; ShareGPT's `from`, `value` and its names for roles are understood."""
    entries = row.get(column)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{origin}: {column!r} is {_short(entries)}: expected a list of messages")
    messages: list[Message] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise InputError(
                f"{origin}: a message is {_short(entry)}: expected an object with role and content"
            )
        role = entry.get("role", entry.get("from"))
        content = entry.get("content", entry.get("value"))
        if not isinstance(role, str):
            raise InputError(f"{origin}: a message has the role {_short(role)}: expected text")
        rest = {key: value for key, value in entry.items() if key not in ("role", "from", "content", "value")}
        messages.append(
            {**rest, "role": _ROLES.get(role, role), "content": _text(content, "content", origin)}
        )
    if answers and messages[-1]["role"] != "assistant":
        raise InputError(f"{origin}: the conversation ends with {messages[-1]['role']!r}, not with an answer")
    return messages


def _texts(row: dict[str, Any], column: str, origin: str) -> list[str]:
    """A column's text, or the texts of its list (PaddleNLP's `src` and `tgt`)."""
    if column not in row:
        raise InputError(f"{origin}: no column {column!r} among {', '.join(row) or 'none'}")
    value = row[column]
    if isinstance(value, list) and value:
        return [_text(item, column, origin) for item in value]
    return [_text(value, column, origin)]


def _text(value: Any, column: str | None, origin: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{origin}: {column!r} is {_short(value)}: expected text")
    return value


def _history(row: dict[str, Any], column: str | None, origin: str) -> Iterator[tuple[str, str]]:
    for pair in (row.get(column) if column is not None else None) or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            raise InputError(
                f"{origin}: {column!r} holds {_short(pair)}: expected [question, answer] pairs of text"
            )
        yield pair[0], pair[1]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
