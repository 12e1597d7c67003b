"""Parsing of the model's text into assistant messages, complete or streamed."""

import ast
from collections.abc import Sequence
from typing import Any

from paddle_glm.chat_template import ChatTemplate, Message, RoleTemplate, parse_response
from paddle_glm.generation.text_filters import ResponseFilter

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
    """Incremental parser: pieces of the model's text -> pieces of visible text; each piece is read once.

    Withheld until final: a header line, trailing white space, a possible start of a text that the template
    replaces, and punctuation that the next character may widen.
    """

    def __init__(self, template: ChatTemplate, hide_tool_calls: bool = False) -> None:
        """hide_tool_calls: leave tool calls out of the visible text."""
        self.template = template
        self.hide_tool_calls = hide_tool_calls
        self._raw: list[str] = []
        self._shown = 0  # messages that are visible
        self._header: str | None = None  # the line before a message's content, until it is whole
        self._content: ResponseFilter | None = ResponseFilter(template)  # None where it is not visible
        if isinstance(template, RoleTemplate):
            self._header = ""

    def push(self, text: str) -> str:
        """Take more text; return the visible text that has become final, often empty."""
        self._raw.append(text)
        if not isinstance(self.template, RoleTemplate):
            return self._push_content(text)
        # The role token is never cut: it is one token.
        first, *others = text.split(dict(self.template.roles)[self.template.reply_role])
        visible = self._push_message(first)
        for part in others:
            visible += self.finish()
            self._header, self._content = "", ResponseFilter(self.template)
            visible += self._push_message(part)
        return visible

    def finish(self) -> str:
        """Return the remaining visible text."""
        rest = ""
        if self._header is not None:  # a message of one line has no header
            rest = self._begin_content() + self._push_content(self._header)
        return rest if self._content is None else rest + self._content.finish()

    def messages(self) -> list[Message]:
        return parse_messages(self.template, "".join(self._raw))

    def _push_message(self, text: str) -> str:
        if self._header is None:
            return self._push_content(text)
        self._header, line_break, content = (self._header + text).partition("\n")
        if not line_break:
            return ""
        if self.hide_tool_calls and self._header.strip():
            self._header = self._content = None
            return ""
        self._header = None
        return self._begin_content() + self._push_content(content)

    def _begin_content(self) -> str:
        """What separates a message from the one before."""
        self._shown += 1
        return "\n" if self._shown > 1 else ""

    def _push_content(self, text: str) -> str:
        return "" if self._content is None else self._content.push(text)


class PlainTextParser:
    """Passes the model's text on as it is: for prompts that are no conversations."""

    def __init__(self) -> None:
        self._raw: list[str] = []

    def push(self, text: str) -> str:
        self._raw.append(text)
        return text

    def finish(self) -> str:
        return ""

    def messages(self) -> list[Message]:
        return [{"role": "assistant", "content": "".join(self._raw)}]
