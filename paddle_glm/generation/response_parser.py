"""Parsing of the model's text into assistant messages, complete or streamed."""

import ast
from collections.abc import Sequence
from typing import Any

from paddle_glm.chat_template import ChatTemplate, Message, RoleTemplate, parse_response

History = list[Any]
"""(question, answer) pairs for ChatGLM-6B and ChatGLM2, messages for ChatGLM3; all accept messages."""


def parse_messages(template: ChatTemplate, text: str) -> list[Message]:
    """The decoded text of an answer -> its messages.

    ChatGLM3 may answer with several, separated by its role token: text, then a tool call.
    """
    parts = [text]
    if isinstance(template, RoleTemplate):
        parts = text.split(dict(template.roles)[template.reply_role])
    return [parse_response(template, part) for part in parts]


def visible_text(messages: list[Message]) -> str:
    """The visible text of an answer: the contents of its messages, one per line."""
    return "\n".join(message["content"] for message in messages)


def parse_tool_call(message: Message) -> dict[str, Any]:
    """A tool call of ChatGLM3: `{"name", "parameters"}`, or `{"name", "content"}` if it cannot be parsed.

    The model writes a fenced block with `tool_call(name=value, ...)`. The original evaluates it as Python;
    here only literals are accepted, and any other block is returned as text.
    """
    name, content = message["metadata"], message["content"]
    try:
        call = ast.parse("\n".join(content.split("\n")[1:-1]).strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            return {"name": name, "content": content}
        values = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    except (SyntaxError, ValueError):
        return {"name": name, "content": content}
    return {"name": name, "parameters": values}


def chat_result(
    template: ChatTemplate,
    query: str,
    history: Sequence[Any] | None,
    messages: list[Message],
    answer: list[Message],
) -> tuple[Any, History]:
    """(response, history) as returned by `chat` of the original models.

    messages: the conversation, ending with `query`; answer: the assistant's messages. The response is text;
    for a tool call of ChatGLM3 it is `{"name", "parameters"}`, or `{"name", "content"}` if the conversation
    declares no tools.
    """
    last = answer[-1]
    response: Any = last["content"]
    if last.get("metadata"):
        declared = messages[0]["role"] == "system" and "tools" in messages[0]
        response = (
            parse_tool_call(last) if declared else {"name": last["metadata"], "content": last["content"]}
        )
    return response, extended_history(template, query, history, messages, answer)


def extended_history(
    template: ChatTemplate,
    query: str,
    history: Sequence[Any] | None,
    messages: list[Message],
    answer: list[Message],
) -> History:
    """The history with this exchange appended, in the format of the family's original."""
    if isinstance(template, RoleTemplate):
        return [*messages, *answer]
    return [*(history or ()), (query, answer[-1]["content"])]


class StreamingResponseParser:
    """Incremental parser: pieces of the model's text -> pieces of visible text.

    Withheld until final: a header line, trailing white space, a possible start of a text that the template
    replaces, and punctuation that the next character may widen.
    """

    def __init__(self, template: ChatTemplate, hide_tool_calls: bool = False) -> None:
        """hide_tool_calls: leave tool calls out of the visible text."""
        self.template = template
        self.hide_tool_calls = hide_tool_calls
        self.raw = ""
        self.emitted = ""

    def push(self, text: str) -> str:
        """Take more text; return the visible text that has become final, often empty."""
        self.raw += text
        messages = parse_messages(self.template, self.raw)
        if isinstance(self.template, RoleTemplate):
            token = dict(self.template.roles)[self.template.reply_role]
            if "\n" not in self.raw.rpartition(token)[2]:
                messages.pop()
        visible = self._visible(messages)
        return self._emit(visible[: len(visible) - self._pending_length(visible)])

    def finish(self) -> str:
        """Return the remaining visible text."""
        return self._emit(self._visible(self.messages()))

    def messages(self) -> list[Message]:
        return parse_messages(self.template, self.raw)

    def _visible(self, messages: list[Message]) -> str:
        shown = [one for one in messages if not (self.hide_tool_calls and one.get("metadata"))]
        return visible_text(shown)

    def _emit(self, visible: str) -> str:
        piece = visible[len(self.emitted) :]
        self.emitted += piece
        return piece

    def _pending_length(self, visible: str) -> int:
        """Length of the longest suffix of `visible` that may start a text to be replaced."""
        lengths = [
            size
            for old, _ in self.template.replacements
            for size in range(1, len(old))
            if visible.endswith(old[:size])
        ]
        lengths += [len(narrow) for narrow, _ in self.template.wide_punctuation if visible.endswith(narrow)]
        return max(lengths, default=0)


class PlainTextParser:
    """Passes the model's text on as it is: for prompts that are no conversations."""

    def __init__(self) -> None:
        self.raw = ""

    def push(self, text: str) -> str:
        self.raw += text
        return text

    def finish(self) -> str:
        return ""

    def messages(self) -> list[Message]:
        return [{"role": "assistant", "content": self.raw}]
