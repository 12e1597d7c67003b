"""Answers side by side, and as Markdown."""

import threading

import pytest

from paddle_glm.errors import InputError
from paddle_glm.serving.pages.answer_markdown import to_markdown
from paddle_glm.serving.pages.answers import Answer, error_text, stream_answers


class Scripted:
    """A session of given pieces; waits for `go` before each, and notes when its stream is closed."""

    def __init__(self, pieces, go=None, error=None):
        self.pieces, self.go, self.error = pieces, go, error
        self.reply, self.closed = None, threading.Event()

    def stream(self, messages):
        try:
            for piece in self.pieces:
                assert self.go is None or self.go.wait(timeout=10)
                yield piece
            if self.error:
                raise self.error
            self.reply = Answer(messages=[{"role": "assistant", "content": "".join(self.pieces)}])
        finally:
            self.closed.set()


def opened(session):
    return lambda: session


ASKED = [{"role": "user", "content": "你好"}]


def test_two_answers_grow_together():
    go = threading.Event()
    quick, slow = Scripted(["一", "二"]), Scripted(["三"], go)
    seen = []
    for answers in stream_answers([opened(quick), opened(slow)], [ASKED, ASKED]):
        seen.append([answer.text for answer in answers])
        if seen[-1][0] == "一二":  # while the other has not begun
            go.set()
    assert seen[-1] == ["一二", "三"] and ["一二", ""] in seen
    assert [answer.kept_messages()[0]["content"] for answer in answers] == ["一二", "三"]


def test_stopping_keeps_what_there_is():
    session = Scripted(["字"] * 10**6)
    stream = stream_answers([opened(session)], [ASKED])
    for (answer,) in stream:
        if answer.text:
            break
    stream.close()
    assert session.closed.wait(timeout=10)
    assert answer.messages is None and set(answer.kept_messages()[0]["content"]) == {"字"}


def test_stopping_before_the_first_piece():
    go = threading.Event()
    stream = stream_answers([opened(Scripted(["字"], go))], [ASKED])
    assert next(stream) == [Answer()] and next(stream) == [Answer()]  # it does not wait for the piece
    stream.close()
    go.set()
    assert Answer().kept_messages() == []


def test_one_fails_and_the_other_answers(caplog):
    *_, (failed, whole) = stream_answers(
        [opened(Scripted(["一"], error=InputError("too long"))), opened(Scripted(["二"]))], [ASKED, ASKED]
    )
    assert error_text(failed.error) == "too long" and whole.error is None
    assert "see the log" in error_text(ZeroDivisionError("of the program"))
    assert "of the program" in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"为 \(x_1\)，\[ y < z \]", "为 $x_1$，\n\n$$\ny < z\n$$\n\n"),
        ("$a<b$ $$c\n<d$$ 价格 $5", r"$a<b$ $$c" + "\n" + r"<d$$ 价格 \$5"),
        ("![图](http://a.example/b.png)", r"\![图](http://a.example/b.png)"),
        ('<img src="http://a.example"> 1 < 2', r'\<img src="http://a.example"> 1 < 2'),
        (r"`![a](b) \(c\) <d>`", r"`![a](b) \(c\) <d>`"),
        ("一\n二\n\n三", "一  \n二  \n\n三"),
        ("```html\n<b>\n\n![\n```\n<b>", "```html\n<b>\n\n![\n```  \n\\<b>"),
        ("~~~\n`a\n<b>", "~~~\n`a\n<b>"),  # still being written
    ],
)
def test_markdown_of_answers(text, shown):
    assert to_markdown(text) == shown
