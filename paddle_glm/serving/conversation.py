"""A conversation as the terminal and the web pages keep it: messages that fall into rounds.

A round is a question (`user`) and what follows it; what stands before the first round, such as a system
message, is the head. Functions return new lists.
"""

import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError


def visible_messages(messages: Sequence[Message]) -> list[Message]:
    """What a page shows: questions and answers, neither system messages nor the results of tools."""
    return [message for message in messages if message["role"] in ("user", "assistant")]


def rounds(messages: Sequence[Message]) -> list[tuple[str, list[Message]]]:
    """Every question with the answer to it, without the results of tools."""
    starts = [*_round_starts(messages), len(messages)]
    return [
        (messages[first]["content"], visible_messages(messages[first + 1 : stop]))
        for first, stop in itertools.pairwise(starts)
    ]


def count_rounds(messages: Sequence[Message]) -> int:
    return len(_round_starts(messages))


def system_prompt(messages: Sequence[Message]) -> str:
    """The text of the system message that begins the conversation, or nothing."""
    return messages[0]["content"] if _has_system_message(messages) else ""


def with_system_prompt(messages: Sequence[Message], text: str) -> list[Message]:
    """The conversation with another system message, or, for an empty text, without."""
    if system_prompt(messages) == text:
        return list(messages)
    rest = messages[1:] if _has_system_message(messages) else messages
    head: list[Message] = [{"role": "system", "content": text}] if text else []
    return [*head, *rest]


def with_question(messages: Sequence[Message], question: str) -> list[Message]:
    """The conversation with one more question, in the place of one that was not answered.

    It is what a session's `stream` takes.
    """
    answered = messages[:-1] if messages and messages[-1]["role"] == "user" else messages
    return [*answered, {"role": "user", "content": question}]


def without_rounds(messages: Sequence[Message]) -> list[Message]:
    """The head alone."""
    return list(messages[: [*_round_starts(messages), len(messages)][0]])


def without_oldest_round(messages: Sequence[Message]) -> list[Message]:
    """The conversation without its first round. Raises `InputError` if there is none."""
    starts = [*_round_starts(messages), len(messages)]
    if len(starts) == 1:
        raise InputError("没有可删除的对话 / there is no round to forget")
    return [*messages[: starts[0]], *messages[starts[1] :]]


def without_last_round(messages: Sequence[Message]) -> tuple[list[Message], str]:
    """The conversation without its last round, and that round's question.

    Raises `InputError` if there is none.
    """
    starts = _round_starts(messages)
    if not starts:
        raise InputError("没有对话 / there is no round yet")
    return list(messages[: starts[-1]]), messages[starts[-1]]["content"]


def to_json(messages: Sequence[Message]) -> str:
    """The text of a file that `from_json` reads."""
    return json.dumps({"messages": list(messages)}, ensure_ascii=False, indent=2) + "\n"


def from_json(text: str | bytes, name: str) -> list[Message]:
    """The messages of a saved conversation; `name` is for errors. Raises `InputError`."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        messages = json.loads(text)["messages"]
        if isinstance(messages, list) and all(
            isinstance(one["role"], str) and isinstance(one["content"], str) for one in messages
        ):
            return messages
    raise InputError(f"{name} 不是保存的对话 / is no saved conversation")


def save(messages: Sequence[Message], path: Path) -> None:
    """Write a new file. Raises `InputError` if it exists or cannot be written."""
    if path.exists():
        raise InputError(f"{path} 已存在 / exists: give another name")
    try:
        # Half of a surrogate pair has no UTF-8; as an escape it is JSON.
        path.write_bytes(to_json(messages).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError(f"{path} 无法写入 / cannot be written ({error.strerror})") from error


def load(path: Path) -> list[Message]:
    """The messages of a file of `save`. Raises `InputError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} 无法读取 / cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} 不是保存的对话 / is no saved conversation") from error
    return from_json(text, str(path))


def _round_starts(messages: Sequence[Message]) -> list[int]:
    return [place for place, message in enumerate(messages) if message["role"] == "user"]


def _has_system_message(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[0]["role"] == "system"
