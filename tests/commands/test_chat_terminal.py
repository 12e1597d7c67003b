"""`paddle-glm chat` in a pseudo-terminal."""

import json
import os
import signal
import sys

import pexpect
import pytest

from tests.paths import ROOT

UP, LEFT, CTRL_C, CTRL_D, NEW_LINE = "\x1b[A", "\x1b[D", "\x03", "\x04", "\x1b\r"
PASTED = "\x1b[200~{}\x1b[201~"


@pytest.fixture
def spawn():
    """Starts Python with arguments in a terminal and waits for the prompt of a chat."""
    started = []

    def start(*words):
        # A pseudo-terminal does not say where its cursor is.
        environment = {**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
        child = pexpect.spawn(
            sys.executable, list(words), cwd=str(ROOT), encoding="utf-8", timeout=60, env=environment
        )
        started.append(child)
        child.expect("用户：")
        return child

    yield start
    for child in started:
        if child.isalive():
            child.kill(signal.SIGKILL)
            child.wait()


@pytest.fixture
def terminal(spawn, tiny_checkpoint):
    """A chat of greedy answers that shows their speed, by which tests know where an answer ends."""
    flags = ["--model_path", str(tiny_checkpoint), "--do_sample", "False", "--max_new_tokens", "8"]
    child = spawn("-m", "paddle_glm.main", "chat", *flags)
    child.send(":speed\r")
    child.expect("is shown")
    child.expect("用户：")
    return child


def ask(terminal, keys):
    terminal.send(keys + "\r")
    terminal.expect(r"\[\d+ tokens, [\d.]+ s, [\d.]+/s\]")
    terminal.expect("用户：")


def saved(terminal, path):
    """What the conversation holds."""
    terminal.send(f":save {path}\r")
    terminal.expect("saved")
    terminal.expect("用户：")
    return [one["content"] for one in json.loads(path.read_text())["messages"] if one["role"] == "user"]


def test_editing_history_and_several_lines(terminal, tmp_path):
    ask(terminal, "你好")
    ask(terminal, UP + LEFT + "们")  # the question before, changed
    ask(terminal, f"一{NEW_LINE}二")
    ask(terminal, PASTED.format("三\n四"))
    assert saved(terminal, tmp_path / "talk.json") == ["你好", "你们好", "一\n二", "三\n四"]


def test_commands(terminal, tmp_path):
    terminal.send(":help\r")
    terminal.expect(":drop")
    ask(terminal, "你好")
    ask(terminal, "再见")
    terminal.send(":speed\r:speed\r")  # hidden, and shown with what the last answer took
    terminal.expect(r"is shown\s+\[\d+ tokens")
    terminal.expect("用户：")
    assert saved(terminal, tmp_path / "two.json") == ["你好", "再见"]
    terminal.send(":drop\r")
    terminal.expect("1 rounds are left")
    assert saved(terminal, tmp_path / "one.json") == ["再见"]
    terminal.send(f":load {tmp_path / 'two.json'}\r")
    terminal.expect("loaded 4 messages")
    terminal.send(f":save {tmp_path / 'two.json'}\r")
    terminal.expect("exists")
    (tmp_path / "other.json").write_text("[1]")
    for command, answer in (
        (f":load {tmp_path / 'other.json'}", "is no saved conversation"),
        (":load", "give a file name"),
        (":nonsense", "is no command"),
    ):
        terminal.send(command + "\r")
        terminal.expect(answer)
    terminal.expect("用户：")
    # Alone too long: the conversation stays.
    terminal.send("长" * 2500 + "\r")
    terminal.expect("leaves no room")
    terminal.expect(r"\[y/N\]")
    terminal.send("y\r")
    terminal.expect("alone is too long")
    terminal.expect("用户：")
    assert saved(terminal, tmp_path / "still.json") == ["你好", "再见"]
    terminal.send(CTRL_D)
    terminal.expect(pexpect.EOF)


def test_a_conversation_that_became_too_long(terminal, tmp_path):
    long = [{"role": "user", "content": "长" * 1500}, {"role": "assistant", "content": "好"}]
    short = [{"role": "user", "content": "短"}, {"role": "assistant", "content": "好"}]
    (tmp_path / "long.json").write_text(json.dumps({"messages": [*long, *short]}))
    terminal.send(f":load {tmp_path / 'long.json'}\r")
    terminal.expect("loaded 4 messages")
    terminal.expect("用户：")
    for reply in ("\r", CTRL_C):  # no
        terminal.send("再见" + "长" * 1000 + "\r")
        terminal.expect(r"leaves no room.*\[y/N\]")
        terminal.send(reply)
        terminal.expect("用户：")
    terminal.send(UP + "\r")
    terminal.expect(r"\[y/N\]")
    terminal.send("y\r")
    terminal.expect(r"\[\d+ tokens")
    terminal.expect("用户：")
    assert saved(terminal, tmp_path / "left.json") == ["短", "再见" + "长" * 1000]


SLOW_CHAT = """
import time
from paddle_glm.commands._chat_loop import ChatLoop

class Slow:
    def stream(self, messages):
        while True:
            time.sleep(0.02)
            yield "字"

ChatLoop(Slow(), []).run()
"""


def test_ctrl_c_stops_the_answer_and_not_the_program(spawn, tmp_path):
    child = spawn("-c", SLOW_CHAT)
    child.send("你好\r")
    child.expect("字字")
    child.send(CTRL_C)
    child.expect("……")
    child.expect("用户：")
    child.send(CTRL_C)
    child.expect(":stop")
    child.expect("用户：")
    assert saved(child, tmp_path / "talk.json") == []
    child.send(":stop\r")
    child.expect(pexpect.EOF)
    assert child.wait() == 0
