"""Conversation templates as data, and the one renderer that turns messages into ids and a loss mask.

Training, chat, the web pages, export and the C++ program all take their prompts from here, so a
prompt is spelled once per family. A template knows the names of special tokens; their ids belong to
the tokenizer. Nothing here imports paddle or sentencepiece.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

from paddle_glm.errors import InputError

_CHINESE = "[\u4e00-\u9fff]"

Message = dict[str, Any]
"""`{"role": "user" | "assistant" | "system", "content": str}`; ChatGLM3 has `metadata` and `tools` too."""


class PromptTokenizer(Protocol):
    """What rendering asks of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def get_command(self, token: str) -> int: ...

    @property
    def pad_token_id(self) -> int: ...


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as token ids, and for each id whether the model is trained to produce it (1 or 0).

    A prompt for generation has a mask of zeros.
    """

    input_ids: list[int]
    loss_mask: list[int]

    def labels(self, ignore_index: int = -100) -> list[int]:
        """Ids aligned with `input_ids`, `ignore_index` where there is nothing to learn; the model shifts."""
        return [
            token if mask else ignore_index
            for token, mask in zip(self.input_ids, self.loss_mask, strict=True)
        ]


@dataclass(frozen=True)
class ChatTemplate(ABC):
    """How a family writes a conversation.

    `end_token` closes an answer in training; generation stops at any of `stop_tokens`;
    `replacements` are applied to what the model answers, then each of `wide_punctuation`, (narrow, wide),
    where it stands beside a Chinese character (the originals' `process_response`).
    """

    layout: ClassVar[str]

    name: str
    prefix_tokens: tuple[str, ...]
    end_token: str
    stop_tokens: tuple[str, ...]
    replacements: tuple[tuple[str, str], ...]
    wide_punctuation: tuple[tuple[str, str], ...]

    @abstractmethod
    def render(
        self,
        tokenizer: PromptTokenizer,
        messages: Sequence[Message],
        max_source_length: int | None = None,
        max_target_length: int | None = None,
    ) -> RenderedChat:
        """See the module's `render`; messages have been checked to be non-empty, with text contents."""

    @abstractmethod
    def parse_response(self, text: str) -> Message:
        """What the model answered (its decoded text) -> the assistant's message."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON value that `template_from_dict` and the C++ program read."""
        return {"layout": self.layout, **asdict(self)}

    def process_response(self, text: str) -> str:
        """A text of the model as a reader is to see it."""
        text = text.strip()
        for old, new in self.replacements:
            text = text.replace(old, new)
        for narrow, wide in self.wide_punctuation:
            text = re.sub(f"({_CHINESE}){re.escape(narrow)}", rf"\1{wide}", text)
            text = re.sub(f"{re.escape(narrow)}({_CHINESE})", rf"{wide}\1", text)
        return text


@dataclass(frozen=True)
class RoundTemplate(ChatTemplate):
    """All rounds in one text: `[Round 1] ... [Round 2] ...` (ChatGLM-6B, ChatGLM2-6B).

    Only the last answer of a conversation is trained on. A system message goes in front of the last
    question, as THUDM's `openai_api.py` does for models without a system role.

    `question` and `answer` are the texts of one round; `lone_question` is that of a conversation
    without history. `source_reserved` and `target_reserved` are what a training sample takes off
    `max_source_length` and `max_target_length` before it cuts the question and the answer to them
    (the originals differ in what they count). `trained_suffix` of the last `suffix_tokens` carry loss.
    """

    layout: ClassVar[str] = "rounds"

    suffix_tokens: tuple[str, ...]
    first_round: int
    question: str
    answer: str
    lone_question: str
    source_reserved: int
    target_reserved: int
    trained_suffix: int

    def prompt(self, query: str, history: Iterable[tuple[str, str]] = ()) -> str:
        """The text that asks `query` after the (question, answer) pairs of `history`."""
        history = list(history)
        if not history:
            return self.lone_question.format(round=self.first_round, query=query)
        rounds = [
            self.question.format(round=index, query=old_query) + self.answer.format(response=response)
            for index, (old_query, response) in enumerate(history, self.first_round)
        ]
        return "".join(rounds) + self.question.format(round=self.first_round + len(history), query=query)

    def render(
        self,
        tokenizer: PromptTokenizer,
        messages: Sequence[Message],
        max_source_length: int | None = None,
        max_target_length: int | None = None,
    ) -> RenderedChat:
        query, history, answer = self._split_conversation(messages)
        prompt_ids = tokenizer.encode(self.prompt(query, history), add_special_tokens=False)
        prefix = [tokenizer.get_command(token) for token in self.prefix_tokens]
        suffix = [tokenizer.get_command(token) for token in self.suffix_tokens]
        reserved = len(prefix) + len(suffix) if answer is None else self.source_reserved
        source = prefix + _truncate(prompt_ids, max_source_length, reserved) + suffix
        if answer is None:
            return RenderedChat(source, [0] * len(source))
        answer_ids = tokenizer.encode(answer, add_special_tokens=False)
        target = [
            *_truncate(answer_ids, max_target_length, self.target_reserved),
            tokenizer.get_command(self.end_token),
        ]
        # The originals turn padding ids into ignored labels wherever they stand, in answers too.
        pad = tokenizer.pad_token_id
        mask = [0] * (len(source) - self.trained_suffix) + [1] * self.trained_suffix
        return RenderedChat(source + target, mask + [int(token != pad) for token in target])

    def parse_response(self, text: str) -> Message:
        return {"role": "assistant", "content": self.process_response(text)}

    def _split_conversation(
        self, messages: Sequence[Message]
    ) -> tuple[str, list[tuple[str, str]], str | None]:
        """Messages -> last question, (question, answer) pairs before it, last answer or None."""
        system = ""
        if messages[0]["role"] == "system":
            system, messages = messages[0]["content"], messages[1:]
        for index, message in enumerate(messages):
            expected = "assistant" if index % 2 else "user"
            if message["role"] != expected:
                raise InputError(
                    f"message {index + 1} has the role {message['role']!r}, expected {expected!r}: "
                    f"{self.name} takes one optional system message, then user and assistant in turn"
                )
        if not messages:
            raise InputError(f"a conversation of a system message alone: {self.name} needs a user message")
        contents = [message["content"] for message in messages]
        answer = contents.pop() if len(contents) % 2 == 0 else None
        query = system + contents.pop()
        return query, list(zip(contents[::2], contents[1::2], strict=True)), answer


@dataclass(frozen=True)
class _SourcePrefixTemplate(RoundTemplate):
    """Rounds with a text in front of each prompt, for rows: it is part of no exported folder."""

    source_prefix: str

    def prompt(self, query: str, history: Iterable[tuple[str, str]] = ()) -> str:
        return self.source_prefix + super().prompt(query, history)


@dataclass(frozen=True)
class RoleTemplate(ChatTemplate):
    """One special token per message, then a header line, then the text (ChatGLM3-6B).

    Every message of `reply_role` is trained on, from its header line up to the token that ends it:
    the next message's role token, or `end_token` at the very end (THUDM's `finetune_hf.py`).
    A training sample is cut to `max_source_length + max_target_length + 1` tokens, a prompt to
    `max_source_length` before the token that asks for the reply, both as there.
    """

    layout: ClassVar[str] = "roles"

    roles: tuple[tuple[str, str], ...]
    header: str
    reply_role: str

    def message_ids(self, tokenizer: PromptTokenizer, message: Message) -> list[int]:
        """Role token, header line, content; a system message's `tools` are appended to it as JSON."""
        content = message["content"]
        if message["role"] == "system" and "tools" in message:
            content += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
        header = self.header.format(metadata=message.get("metadata") or "")
        return [
            tokenizer.get_command(self._role_token(message["role"])),
            *tokenizer.encode(header, add_special_tokens=False),
            *tokenizer.encode(content, add_special_tokens=False),
        ]

    def render(
        self,
        tokenizer: PromptTokenizer,
        messages: Sequence[Message],
        max_source_length: int | None = None,
        max_target_length: int | None = None,
    ) -> RenderedChat:
        ids = [tokenizer.get_command(token) for token in self.prefix_tokens]
        mask = [0] * len(ids)
        trained = 0
        for message in messages:
            tokens = self.message_ids(tokenizer, message)
            previous, trained = trained, int(message["role"] == self.reply_role)
            ids += tokens
            mask += [previous] + [trained] * (len(tokens) - 1)
        if not trained:
            ids = [*ids[:max_source_length], tokenizer.get_command(self._role_token(self.reply_role))]
            return RenderedChat(ids, [0] * len(ids))
        ids.append(tokenizer.get_command(self.end_token))
        mask.append(1)
        if max_source_length is not None and max_target_length is not None:
            limit = max_source_length + max_target_length + 1
            ids, mask = ids[:limit], mask[:limit]
        return RenderedChat(ids, mask)

    def parse_response(self, text: str) -> Message:
        """The header line names a tool or is blank; a text without a line break has no header yet."""
        header, line_break, content = text.partition("\n")
        metadata = header.strip() if line_break else ""
        return {
            "role": self.reply_role,
            "metadata": metadata,
            "content": self.process_response(content if line_break else text),
        }

    def _role_token(self, role: str) -> str:
        for name, token in self.roles:
            if name == role:
                return token
        raise InputError(
            f"role {role!r} is unknown to {self.name}: it knows {', '.join(name for name, _ in self.roles)}"
        )


def render(
    template: ChatTemplate,
    tokenizer: PromptTokenizer,
    messages: Sequence[Message],
    max_source_length: int | None = None,
    max_target_length: int | None = None,
) -> RenderedChat:
    """A conversation -> ids and loss mask: a training sample if the assistant spoke last, else a prompt.

    Lengths are in tokens and cut as the family's original finetuning scripts do; None does not cut.
    Raises InputError for an empty conversation, a message without text and roles that do not fit.
    """
    if not messages:
        raise InputError("an empty conversation: give at least one message")
    for index, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"message {index} is {message!r}: expected an object with 'role' and 'content'")
        if not isinstance(message.get("content"), str):
            raise InputError(
                f"message {index} ({message['role']}) has the content {message.get('content')!r}: "
                "expected text"
            )
    return template.render(tokenizer, messages, max_source_length, max_target_length)


def with_source_prefix(template: ChatTemplate, text: str | None) -> ChatTemplate:
    """The template with `text` in front of every prompt (`--source_prefix` of THUDM's main.py).

    Raises InputError for a family whose messages have roles: there a system message says it.
    """
    if not text:
        return template
    if not isinstance(template, RoundTemplate):
        raise InputError(
            f"--source_prefix {text!r}: {template.name} has no text around messages; put a system message "
            "into the rows' `messages`"
        )
    values = {field.name: getattr(template, field.name) for field in fields(template)}
    return _SourcePrefixTemplate(**values, source_prefix=text)


def parse_response(template: ChatTemplate, text: str) -> Message:
    """The decoded text of an answer -> the assistant's message, cleaned as the originals do."""
    return template.parse_response(text)


def messages_from_history(
    query: str,
    history: Sequence[Sequence[str] | Message] | None = None,
    system: str | None = None,
    role: str = "user",
) -> list[Message]:
    """The originals' `query, history` -> messages. History holds (question, answer) pairs or role objects."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for item in history or ():
        if isinstance(item, dict):
            messages.append(item)
        elif not isinstance(item, str) and len(item) == 2:
            messages.append({"role": "user", "content": item[0]})
            messages.append({"role": "assistant", "content": item[1]})
        else:
            raise InputError(f"history holds {item!r}: expected a (question, answer) pair or a message")
    messages.append({"role": role, "content": query})
    return messages


def template_from_dict(data: dict[str, Any]) -> ChatTemplate:
    """The inverse of `ChatTemplate.to_dict`, after JSON (which knows lists only)."""
    classes: dict[str, type[ChatTemplate]] = {kind.layout: kind for kind in (RoundTemplate, RoleTemplate)}
    values = dict(data)
    layout = values.pop("layout", None)
    if layout not in classes:
        raise InputError(f"template layout {layout!r} is unknown: expected one of {', '.join(classes)}")
    kind = classes[layout]
    expected = {field.name for field in fields(kind)}
    if expected != set(values):
        wrong = ", ".join(sorted(expected ^ set(values)))
        raise InputError(f"a {layout} template has the keys {', '.join(sorted(expected))}; check {wrong}")
    return kind(**{key: _lists_to_tuples(value) for key, value in values.items()})


def _truncate(ids: list[int], limit: int | None, reserved: int) -> list[int]:
    return ids if limit is None else ids[: max(limit - reserved, 0)]


def _lists_to_tuples(value: Any) -> Any:
    return tuple(_lists_to_tuples(item) for item in value) if isinstance(value, list | tuple) else value
