"""The conversation in the terminal: questions, answers, and the commands that begin with a colon."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError
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
        self._answered = self._shows_speed = False
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: print(_HELP),
            "clear": lambda _: self._clear(),
            "drop": lambda _: self._drop(),
            "save": self._save,
            "load": self._load,
            "speed": lambda _: self._toggle_speed(),
        }

    def run(self) -> None:
        """Raises `InputError` for a question that cannot be answered if none has been before it."""
        for line in read_questions():
            if line in ("stop", ":stop"):
                return
            if line == "clear":
                self._clear()
            elif line.startswith(":"):
                self._command(line)
            else:
                self._answer(line)

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
        """Print the answer; Ctrl-C stops it and drops its round, and so does an `InputError`."""
        asked = conversation.with_question(self.messages, question)
        print("\nChatGLM：", end="", flush=True)
        started, characters = time.monotonic(), 0
        try:
            for piece in self.session.stream(asked):
                print(piece, end="", flush=True)
                characters += len(piece)
        except KeyboardInterrupt:
            print(" ……")
            return
        except InputError as error:  # usually a conversation that is too long
            if not self._answered:
                print()
                raise
            print(f"{error}（输入 :drop 删除最早的一轮，clear 清空对话历史）")
            return
        print()
        assert self.session.reply is not None
        self.messages = [*asked, *self.session.reply.messages]
        self._answered = True
        if self._shows_speed:
            self._print_speed(time.monotonic() - started, characters)

    def _print_speed(self, seconds: float, characters: int) -> None:
        tokens = getattr(self.session.reply, "completion_tokens", None)  # servers do not say
        count, unit = (characters, "字/characters") if tokens is None else (tokens, "tokens")
        print(f"[{count} {unit}, {seconds:.1f} s, {count / max(seconds, 1e-3):.1f}/s]")

    def _clear(self) -> None:
        self.messages = list(self.initial_messages)
        print("对话历史已清空")

    def _drop(self) -> None:
        self.messages = conversation.without_oldest_round(self.messages)
        print(f"已删除最早的一轮 / {conversation.count_rounds(self.messages)} rounds are left")

    def _toggle_speed(self) -> None:
        self._shows_speed = not self._shows_speed
        print("显示速度 / speed is shown" if self._shows_speed else "不显示速度 / speed is hidden")

    def _save(self, name: str) -> None:
        path = _path(name)
        conversation.save(self.messages, path)
        print(f"已保存 / saved {len(self.messages)} messages: {path}")

    def _load(self, name: str) -> None:
        self.messages = conversation.load(_path(name))
        print(f"已读入 / loaded {len(self.messages)} messages")


def read_questions() -> Iterator[str]:
    """Questions, stripped, none empty; in a terminal with a history, and of several lines."""
    read = _terminal_reader() if sys.stdin.isatty() and sys.stdout.isatty() else lambda: input("\n用户：")
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
