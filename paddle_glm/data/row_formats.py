"""Converting rows to conversations: the recognised columns and their types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paddle_glm.chat_template import Message, messages_from_history
from paddle_glm.errors import InputError

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's role names -> ours


@dataclass(frozen=True)
class Columns:
    """Keys of a row. `input` is appended to the prompt; `messages` is a whole conversation, used alone."""

    prompt: str | None = None
    response: str | None = None
    history: str | None = None
    input: str | None = None
    messages: str | None = None

    def matches(self, row: dict[str, Any]) -> bool:
        """Whether the row has the key of the prompt or of the conversation."""
        return (self.prompt if self.messages is None else self.messages) in row


# Detected by their keys; the first match wins. cpp_infer/src/rows.cc has the same list;
# tests/golden/rows.json holds the two equal.
KNOWN_COLUMNS = (
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
    """One conversation. `origin` is "file:line"; without an answer, the last message is the user's."""

    messages: tuple[Message, ...]
    origin: str = ""

    @property
    def answer(self) -> str | None:
        """The content of the last message if its role is assistant, else None."""
        last = self.messages[-1]
        return last["content"] if last["role"] == "assistant" else None

    @property
    def prompt_messages(self) -> tuple[Message, ...]:
        """The messages without the final answer."""
        return self.messages if self.answer is None else self.messages[:-1]

    @property
    def is_empty(self) -> bool:
        """Whether the last question or its answer is only white space."""
        last = 1 if self.answer is None else 2
        return not all(message["content"].strip() for message in self.messages[-last:])


def detect_columns(row: dict[str, Any], require_answer: bool, origin: str) -> Columns:
    """The first of `KNOWN_COLUMNS` that this row has; the response may be absent without `require_answer`.

    Raises `InputError` if none matches.
    """
    for layout in KNOWN_COLUMNS:
        if layout.messages is not None:
            if layout.messages in row:
                return layout
        elif layout.prompt in row and (layout.response in row or not require_answer):
            return layout
    known = "; ".join(" + ".join(filter(None, (c.messages, c.prompt, c.response))) for c in KNOWN_COLUMNS)
    raise InputError(
        f"{origin}: no known columns among {', '.join(row) or 'none'} (known: {known}): "
        "name them with --prompt_column and --response_column, or rename them"
    )


def read_example(row: dict[str, Any], columns: Columns, require_answer: bool, origin: str) -> Example:
    """The conversation of a row. Raises `InputError` naming `origin` for wrong types or a missing answer."""
    if columns.messages is not None:
        messages = _messages_from_list(row, columns.messages, require_answer, origin)
    else:
        messages = _messages_from_columns(row, columns, require_answer, origin)
    return Example(tuple(messages), origin)


def abbreviate(value: Any) -> str:
    """A value as JSON for an error message, at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)  # parquet has dates and bytes, too
    return text if len(text) <= 60 else text[:57] + "..."


def _messages_from_columns(
    row: dict[str, Any], columns: Columns, require_answer: bool, origin: str
) -> list[Message]:
    if columns.prompt is None or (require_answer and columns.response is None):
        raise InputError("--prompt_column and --response_column go together: give both or neither")
    questions = _text_list(row, columns.prompt, origin)
    # Without require_answer the response may be absent, or empty as in test files.
    has_answer = require_answer or row.get(columns.response or "") not in (None, "")
    replies = _text_list(row, columns.response, origin) if has_answer and columns.response else []
    if len(questions) - len(replies) not in ((0,) if require_answer else (0, 1)):
        raise InputError(
            f"{origin}: {len(questions)} entries in {columns.prompt!r} but {len(replies)} in "
            f"{columns.response!r}: each question needs its answer"
        )
    extra = row.get(columns.input) if columns.input is not None else None
    if extra:
        questions[-1] += "\n" + _check_text(extra, columns.input, origin)
    earlier = list(_history_pairs(row, columns.history, origin)) + list(
        zip(questions[:-1], replies, strict=False)
    )
    messages = messages_from_history(questions[-1], earlier)
    if len(replies) == len(questions):
        messages.append({"role": "assistant", "content": replies[-1]})
    return messages


def _messages_from_list(row: dict[str, Any], column: str, require_answer: bool, origin: str) -> list[Message]:
    """Messages with `role` and `content`, or ShareGPT's `from` and `value`."""
    entries = _parse_list(row.get(column), column, origin)
    if not entries:
        raise InputError(f"{origin}: {column!r} is {abbreviate(entries)}: expected a list of messages")
    messages: list[Message] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise InputError(
                f"{origin}: a message is {abbreviate(entry)}: expected an object with role and content"
            )
        entry = {
            key: value for key, value in entry.items() if value is not None
        }  # parquet fills missing keys with None
        role = entry.pop("role", entry.pop("from", None))
        content = entry.pop("content", entry.pop("value", None))
        if not isinstance(role, str):
            raise InputError(f"{origin}: a message has the role {abbreviate(role)}: expected text")
        messages.append(
            {
                **entry,
                "role": SHAREGPT_ROLES.get(role, role),
                "content": _check_text(content, "content", origin),
            }
        )
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        raise InputError(f"{origin}: {column!r} holds an answer without a question")
    if require_answer and messages[-1]["role"] != "assistant":
        raise InputError(f"{origin}: the conversation ends with {messages[-1]['role']!r}, not with an answer")
    return messages


def _text_list(row: dict[str, Any], column: str, origin: str) -> list[str]:
    """A column's value as a list of texts; it may be a list already (PaddleNLP's `src` and `tgt`)."""
    if column not in row:
        raise InputError(f"{origin}: no column {column!r} among {', '.join(row) or 'none'}")
    value = row[column]
    if isinstance(value, list) and value:
        return [_check_text(item, column, origin) for item in value]
    return [_check_text(value, column, origin)]


def _check_text(value: Any, column: str | None, origin: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{origin}: {column!r} is {abbreviate(value)}: expected text")
    return value


def _parse_list(value: Any, column: str, origin: str) -> list[Any]:
    """A list, or its JSON text, as in a CSV field; empty for None and empty text."""
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise InputError(
                f"{origin}: {column!r} is {abbreviate(value)}: expected a list; "
                f"a table holds it as JSON ({error})"
            ) from error
    if found is not None and not isinstance(found, list):
        raise InputError(f"{origin}: {column!r} is {abbreviate(value)}: expected a list")
    return found or []


def _history_pairs(row: dict[str, Any], column: str | None, origin: str) -> Iterator[tuple[str, str]]:
    for pair in _parse_list(row.get(column), column, origin) if column is not None else ():
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            raise InputError(
                f"{origin}: {column!r} holds {abbreviate(pair)}: expected [question, answer] pairs of text"
            )
        yield pair[0], pair[1]
