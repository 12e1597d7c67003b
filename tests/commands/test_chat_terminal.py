"""`paddle-glm chat` in a pseudo-terminal."""

import json
import os
import sys

import pexpect
import pytest

from tests.paths import ROOT

UP, LEFT, CTRL_C, CTRL_D, NEW_LINE = "\x1b[A", "\x1b[D", "\x03", "\x04", "\x1b\r"
PASTED = "\x1b[200~{}\x1b[201~"


@pytest.fixture
def start(tiny_checkpoint):
    """Starts a chat with flags and waits for its prompt."""
    started = []

    def start_chat(*flags):
        words = ["-m", "paddle_glm.main", "chat", "--model_path", str(tiny_checkpoint), *flags]
        # A pseudo-terminal does not say where its cursor is.
        environment = {**os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
        child = pexpect.spawn(
            sys.executable, words, cwd=str(ROOT), encoding="utf-8", timeout=30, env=environment
        )
        started.append(child)
        child.expect("用户：")
        return child

    yield start_chat
    for child in started:
        child.close(force=True)


@pytest.fixture
def terminal(start):
    """A chat of greedy answers that shows their speed, by which tests know where an answer ends."""
    child = start("--do_sample", "False", "--max_new_tokens", "8")
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
    # Too long: the oldest round makes room.
    terminal.send("长" * 2500 + "\r")
    terminal.expect("leaves no room")
    terminal.expect("用户：")
    assert saved(terminal, tmp_path / "still.json") == ["你好", "再见"]
    terminal.send(CTRL_D)
    terminal.expect(pexpect.EOF)


def test_ctrl_c_stops_the_answer_and_not_the_program(start, tmp_path):
    child = start("--do_sample", "False", "--max_length", "2000")
    child.send("你好\r")
    child.expect("ChatGLM：.")
    child.send(CTRL_C)
    child.expect("……")
    child.expect("用户：")
    child.send(CTRL_C)
    child.expect(":stop")
    child.expect("用户：")
    assert saved(child, tmp_path / "talk.json") == []
    child.send(":stop\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
