"""What the buttons of gradio's page do, driven as gradio drives them, over scripted sessions."""

import threading

import pytest

from paddle_glm.serving.pages.chat_provider import ChatProvider
from tests.serving.test_answers import Scripted

pytest.importorskip("gradio", reason="gradio is not installed (extra `web`)")
SETTINGS = ("base", "", "", 0, 0.8, 8)


class Talk:
    """A page, a visitor, and a model that waits for `go` before each piece of an answer."""

    def __init__(self):
        from paddle_glm.serving.pages.gradio_page import Page, Visit

        self.go = threading.Event()
        self.page = Page(ChatProvider("ChatGLM", ("base",), 0, 0.8, 8, self.open, lambda: None), [])
        self.visit = Visit([[]])

    def open(self, values, model):
        return Scripted(["好", "啊"], self.go)

    @property
    def texts(self):
        return [message["content"] for message in self.visit.columns[0]]


@pytest.fixture
def talk():
    talk = Talk()
    yield talk
    talk.go.set()  # ends what still waits


def shown(outputs):
    return [message["content"] for message in outputs[0]]


def in_thread(function, *arguments):
    """Call as gradio does, in a thread; returns that and where the result will be."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*arguments)))
    thread.start()
    return thread, result


@pytest.mark.parametrize("arrived", [0, 3])
def test_a_conversation_cleared_in_mid_answer_stays_empty(talk, arrived):
    asking = talk.page.ask(talk.visit, "一", *SETTINGS)
    for _ in range(1 + arrived):
        assert "一" in shown(next(asking))[0]
    before = talk.visit._last
    clearing, cleared = in_thread(talk.page.clear, talk.visit, "")
    while talk.visit._last is before:
        clearing.join(0.01)
    assert clearing.is_alive()  # it waits for the answer, whose last outputs gradio may not have sent
    talk.go.set()
    late = list(asking)
    clearing.join(20)
    assert talk.texts == shown(cleared[0]) == []
    assert all(output == {"__type__": "update"} for outputs in late for output in outputs)
    *_, answered = talk.page.ask(talk.visit, "二", *SETTINGS)
    assert talk.texts == ["二", "好啊"] and len(shown(answered)) == 2


def test_another_question_ends_the_answer_in_work(talk):
    asking = talk.page.ask(talk.visit, "一", *SETTINGS)
    next(asking)
    other, result = in_thread(lambda: list(talk.page.ask_again(talk.visit, *SETTINGS)))
    talk.go.set()
    list(asking)
    other.join(20)
    assert talk.texts == ["一", "好啊"] and len(shown(result[0][-1])) == 2


def test_an_answer_whose_page_is_gone_ends(talk):
    asking = talk.page.ask(talk.visit, "一", *SETTINGS)
    next(asking)
    asking.close()  # gradio's, for a visitor who left
    assert talk.page.clear(talk.visit, "")[0] == []


def test_there_is_nothing_to_take_back(talk):
    for outputs in (
        *talk.page.ask_again(talk.visit, *SETTINGS),
        talk.page.take_back(talk.visit, edits=True),
    ):
        assert "没有对话" in outputs[3]
