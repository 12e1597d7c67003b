"""The conversation in the terminal: questions, answers, and the commands that begin with a colon."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.serving import conversation

if TYPE_CHECKING:
    from paddle_glm.generation import Session

_HELP = """:help            显示本帮助 / this help
:clear           清空对话历史 / forget the conversation (also: clear)
:drop            删除最早的一轮 / forget its oldest round
:save FILE       保存对话 / write the conversation as JSON
:load FILE       读入对话 / go on with a saved one
:speed           显示或隐藏速度 / show tokens per second, or hide them
:stop            退出 / leave (also: stop, Ctrl-D)
Ctrl-C 中断回答 / stops an answer; Alt-Enter 换行 / begins a new line"""


class ChatLoop:
    """Answers questions with a session until `:stop` or the end of input.

    initial_messages: what `:clear` goes back to.
    """

    def __init__(self, session: "Session", initial_messages: list[Message]) -> None:
        self.session, self.initial_messages = session, initial_messages
        self.messages = list(initial_messages)
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._answered = self._shows_speed = False
        self._speed = ""  # of the last answer
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(_HELP),
            "clear": lambda _: self._clear(),
            "drop": lambda _: self._drop(),
            "save": self._save,
            "load": self._load,
            "speed": lambda _: self._toggle_speed(),
        }

    def run(self) -> None:
        """Raises `InputError` for a first question that cannot be answered, unless it was typed."""
        for line in read_questions(self._is_terminal):
            if line in ("stop", ":stop"):
                return
            try:
                if line == "clear":
                    self._clear()
                elif line.startswith(":"):
                    self._command(line)
                else:
                    self._answer(line)
            except KeyboardInterrupt:  # stops the answer, not the program
                print(" ……")

    def _command(self, line: str) -> None:
        name, _, argument = line[1:].partition(" ")
        command = self._commands.get(name)
        if command is None:
            print(f":{name} 不是命令 / is no command (:help)")
            return
        try:
            command(argument.strip())
        except InputError as error:
            print(error)

    def _answer(self, question: str) -> None:
        """Print the answer; one that fails or is stopped by Ctrl-C leaves its round out."""
        print("\nChatGLM：", end="", flush=True)
        try:
            self._stream(self.messages, question)
        except InputError as error:
            print()
            rounds = conversation.count_rounds(self.messages)
            if self._is_terminal and rounds and isinstance(error, PromptTooLongError):
                print(error)
                self._offer_to_drop(question)
            elif self._is_terminal or self._answered:
                print(f"{error}（输入 :drop 删除最早的一轮，clear 清空对话历史）" if rounds else error)
            else:
                raise

    def _stream(self, messages: list[Message], question: str) -> None:
        """Print the answer in the conversation `messages`, and go on with it."""
        asked = conversation.with_question(messages, question)
        started, characters = time.monotonic(), 0
        for piece in self.session.stream(asked):
            print(piece, end="", flush=True)
            characters += len(piece)
        print()
        assert self.session.reply is not None
        self.messages = [*asked, *self.session.reply.messages]
        self._answered = True
        self._speed = self._describe_speed(time.monotonic() - started, characters)
        if self._shows_speed:
            print(self._speed)

    def _offer_to_drop(self, question: str) -> None:
        """Ask whether the oldest rounds may go, and answer without as many as need be."""
        reply = input("删除最早的几轮并回答？/ Forget the oldest rounds and answer? [y/N] ")
        if reply.strip().lower() not in ("y", "yes", "是"):
            return
        print("\nChatGLM：", end="", flush=True)
        messages = self.messages
        while conversation.count_rounds(messages):
            messages = conversation.without_oldest_round(messages)
            try:
                self._stream(messages, question)
            except PromptTooLongError:
                continue
            except InputError as error:
                print(error)
            return
        print("问题本身太长，对话未变 / the question alone is too long; the conversation is as before")

    def _describe_speed(self, seconds: float, characters: int) -> str:
        tokens = getattr(self.session.reply, "completion_tokens", None)  # servers do not say
        count, unit = (characters, "字/characters") if tokens is None else (tokens, "tokens")
        return f"[{count} {unit}, {seconds:.1f} s, {count / max(seconds, 1e-3):.1f}/s]"

    def _clear(self) -> None:
        self.messages = list(self.initial_messages)
        print("对话历史已清空")

    def _drop(self) -> None:
        self.messages = conversation.without_oldest_round(self.messages)
        print(f"已删除最早的一轮 / {conversation.count_rounds(self.messages)} rounds are left")

    def _toggle_speed(self) -> None:
        self._shows_speed = not self._shows_speed
        print("显示速度 / speed is shown" if self._shows_speed else "不显示速度 / speed is hidden")
        if self._shows_speed and self._speed:
            print(self._speed)

    def _save(self, name: str) -> None:
        path = _path(name)
        conversation.save(self.messages, path)
        print(f"已保存 / saved {len(self.messages)} messages: {path}")

    def _load(self, name: str) -> None:
        self.messages = conversation.load(_path(name))
        print(f"已读入 / loaded {len(self.messages)} messages")


def read_questions(is_terminal: bool) -> Iterator[str]:
    """Questions, stripped, none empty; in a terminal with a history, and of several lines."""
    read = _terminal_reader() if is_terminal else lambda: input("\n用户：")
    while True:
        try:
            question = read().strip()
        except KeyboardInterrupt:
            print("（:stop 退出 / leaves）")
            continue
        except EOFError:
            print()
            return
        if question:
            yield question


def _terminal_reader() -> Callable[[], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    # Several lines at once: pasted text keeps its line ends.
    prompts: PromptSession[str] = PromptSession(multiline=True, key_bindings=keys)
    return lambda: prompts.prompt("\n用户：")


def _path(name: str) -> Path:
    if not name:
        raise InputError("请给出文件名 / give a file name, as in :save talk.json")
    return Path(name).expanduser()
