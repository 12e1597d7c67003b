"""Chat templates as data, and the renderer that turns messages into ids and a loss mask.

Training, chat, the web pages, export and the C++ program all render a family's template
(`models/NAME/template.py`). Templates name special tokens; the tokenizer knows their ids.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

from paddle_glm.errors import InputError

# Label of a token without loss, as in PyTorch's and Paddle's cross entropy.
IGNORE_INDEX = -100
CHINESE_CHARACTER = "[\u4e00-\u9fff]"

Message = dict[str, Any]
"""`{"role": "user" | "assistant" | "system", "content": str}`; ChatGLM3 has `metadata` and `tools` too."""


class PromptTokenizer(Protocol):
    """The part of a tokenizer that rendering needs."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def get_command(self, token: str) -> int: ...

    @property
    def pad_token_id(self) -> int: ...


@dataclass(frozen=True)
class RenderedChat:
    """Token ids of a conversation, and for each 1 if it is a training target, else 0.

    A prompt for generation has no targets.
    """

    input_ids: list[int]
    loss_mask: list[int]

    def labels(self, ignore_index: int = IGNORE_INDEX) -> list[int]:
        """The targets at their own positions (the model shifts), `ignore_index` elsewhere."""
        return [
            token if mask else ignore_index
            for token, mask in zip(self.input_ids, self.loss_mask, strict=True)
        ]


@dataclass(frozen=True)
class ChatTemplate(ABC):
    """The prompt format of a family.

    prefix_tokens: special tokens that begin a prompt. end_token: ends an answer in training.
    stop_tokens: any of them ends an answer in generation.
    replacements: (old, new) texts of answers. wide_punctuation: (ASCII, full-width), replaced after them
        next to a Chinese character (`process_response` of the originals).
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
        """See `render` of this module, which has checked that there are messages with text contents."""

    @abstractmethod
    def parse_response(self, text: str) -> Message:
        """The assistant's message in the decoded text of an answer."""

    def to_dict(self) -> dict[str, Any]:
        """The template as a JSON value, for `template_from_dict` and the C++ program."""
        return {"layout": self.layout, **asdict(self)}

    def process_response(self, text: str) -> str:
        """The text of an answer as users see it: stripped, with the replacements."""
        text = text.strip()
        for old, new in self.replacements:
            text = text.replace(old, new)
        for narrow, wide in self.wide_punctuation:
            text = re.sub(f"({CHINESE_CHARACTER}){re.escape(narrow)}", rf"\1{wide}", text)
            text = re.sub(f"{re.escape(narrow)}({CHINESE_CHARACTER})", rf"{wide}\1", text)
        return text


@dataclass(frozen=True)
class RoundTemplate(ChatTemplate):
    """All rounds in one text: `[Round 1] ... [Round 2] ...` (ChatGLM-6B, ChatGLM2-6B).

    Only the last answer is a training target. A system message is prepended to the last question, as in
    THUDM's `openai_api.py` for models without a system role.

    suffix_tokens: special tokens that end a prompt; the last `trained_suffix` of them are targets.
    first_round: number of the first round.
    question, answer: text of a round, with `{round}`, `{query}` and `{response}`.
    lone_question: text of the question in a conversation without history.
    source_reserved, target_reserved: tokens subtracted from `max_source_length` and `max_target_length`
        before question and answer of a training sample are truncated; the originals differ in them.
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
        """The prompt's text for `query` after the (question, answer) pairs of `history`."""
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
        # The originals ignore labels that equal the padding id, also inside answers.
        pad = tokenizer.pad_token_id
        mask = [0] * (len(source) - self.trained_suffix) + [1] * self.trained_suffix
        return RenderedChat(source + target, mask + [int(token != pad) for token in target])

    def parse_response(self, text: str) -> Message:
        return {"role": "assistant", "content": self.process_response(text)}

    def _split_conversation(
        self, messages: Sequence[Message]
    ) -> tuple[str, list[tuple[str, str]], str | None]:
        """(last question, (question, answer) pairs before it, last answer or None)."""
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
    """Rounds with a text before every prompt. It is for rows of data; exported folders never have it."""

    source_prefix: str

    def prompt(self, query: str, history: Iterable[tuple[str, str]] = ()) -> str:
        return self.source_prefix + super().prompt(query, history)


@dataclass(frozen=True)
class RoleTemplate(ChatTemplate):
    """For each message a role token, a header line and the text (ChatGLM3-6B).

    Training targets are all messages of `reply_role`, from the header line to the token that ends the
    message: the next role token, or `end_token` at the end (THUDM's `finetune_hf.py`). As there, training
    samples are truncated to `max_source_length + max_target_length + 1` tokens, and prompts to
    `max_source_length` before the role token of the reply.

    roles: (role, its token). header: text with `{metadata}`. reply_role: the assistant's.
    """

    layout: ClassVar[str] = "roles"

    roles: tuple[tuple[str, str], ...]
    header: str
    reply_role: str

    def message_ids(self, tokenizer: PromptTokenizer, message: Message) -> list[int]:
        """Ids of role token, header line and content; `tools` of a system message are appended as JSON."""
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
        """The first line is the header, blank or a tool's name; a text of one line has no header."""
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
    """Ids and loss mask of a conversation: a training sample if the assistant spoke last, else a prompt.

    max_source_length, max_target_length: tokens, truncated as the family's original finetuning scripts do;
        None does not truncate.
    Raises `InputError` for an empty conversation, a message without text, and unsupported roles.
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
    """The template with `text` before every prompt (`--source_prefix` of THUDM's main.py).

    Raises `InputError` for a `RoleTemplate`, which has system messages for that.
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
    """The assistant's message in the decoded text of an answer, with the originals' replacements."""
    return template.parse_response(text)


def messages_from_history(
    query: str,
    history: Sequence[Sequence[str] | Message] | None = None,
    system: str | None = None,
    role: str = "user",
) -> list[Message]:
    """Messages for the originals' `query, history`; history has (question, answer) pairs or messages."""
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
    """The inverse of `ChatTemplate.to_dict`; `data` may come from JSON, with lists for tuples."""
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
