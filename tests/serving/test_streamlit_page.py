"""The page of streamlit, through its own test runner, over scripted sessions."""

import json
import threading

import pytest

from paddle_glm.errors import PromptTooLongError
from paddle_glm.serving.pages.answers import Answer
from paddle_glm.serving.pages.chat_provider import ChatProvider
from tests.serving.test_answers import Scripted

testing = pytest.importorskip("streamlit.testing.v1", reason="streamlit is not installed (extra `web`)")
PROMPT = "类型#上衣*样式#风衣*"


class Models:
    """Sessions that answer with what they were asked; `asked` keeps that."""

    def __init__(self, *names):
        self.asked = []
        self.provider = ChatProvider("ChatGLM", names, 0.0, 0.8, 8, self.open, lambda: None)

    def open(self, values, model):
        models = self

        class Session(Scripted):
            def stream(self, messages):
                models.asked.append((model, list(messages), values))
                if sum(len(message["content"]) for message in messages) > 100:
                    self.error = PromptTooLongError("a prompt leaves no room")
                self.pieces = [f"{model}：", f"**{len(models.asked)}**"]
                return super().stream(messages)

        return Session([])


def draw(provider, system):
    from paddle_glm.serving.pages.streamlit_page import show

    show(provider, [{"role": "system", "content": system}] if system else [])


@pytest.fixture
def start():
    def start(*names, system=""):
        models = Models(*names)
        page = testing.AppTest.from_function(draw, args=(models.provider, system), default_timeout=20).run()
        assert not page.exception
        return page, models

    return start


def shown(page):
    assert not page.exception
    parts = [part for message in page.chat_message for part in (*message.text, *message.markdown)]
    return [part.value for part in parts]


def ask(page, question):
    return page.chat_input[0].set_value(question).run()


def click(page, label):
    (button,) = [button for button in page.button if button.label == label]
    return button.click().run()


def saved(page):
    return page.session_state["visit"].talks


def test_questions_are_shown_as_typed(start):
    page, models = start("base")
    ask(page, PROMPT)
    ask(page, "  <b>*两行*</b>\n$a$")
    assert shown(page) == [PROMPT, "base：**1**", "\u2060  <b>*两行*</b>\n$a$", "base：**2**"]
    assert [message["content"] for message in models.asked[1][1]] == [
        PROMPT,
        "base：**1**",
        "  <b>*两行*</b>\n$a$",
    ]
    assert models.asked[1][2] == {"temperature": 0.0, "top_p": 0.8, "max_new_tokens": 8}


def test_the_last_round_is_repeated_edited_and_deleted(start):
    page, _ = start("base")
    ask(ask(page, "一"), "二")
    assert shown(click(page, "重新生成")) == ["一", "base：**1**", "二", "base：**3**"]
    assert shown(click(page, "编辑上一轮")) == ["一", "base：**1**"]
    assert page.chat_input[0].proto.value == "二"
    assert shown(click(page, "删除上一轮")) == []
    assert not [button for button in page.button if "上一轮" in button.label]
    ask(page, "三")
    assert shown(click(page, "清空对话")) == []


@pytest.mark.parametrize(("text", "kept", "draft"), [("好", ["一", "好"], None), ("", [], "一")])
def test_a_click_in_mid_answer(text, kept, draft):
    from paddle_glm.serving.pages.streamlit_page import Asked, Visit

    visit = Visit([[]], current=Asked("一", [[{"role": "user", "content": "一"}]], [Answer(text)]))
    visit.settle()
    visit.settle()  # the run that was interrupted comes later
    assert [message["content"] for message in visit.talks[0]] == kept
    assert visit.draft == draft


class SlowlyKept(Answer):
    """An answer whose end takes until `go`."""

    begun, go = threading.Event(), threading.Event()

    def kept_messages(self):
        self.begun.set()
        assert self.go.wait(timeout=20)
        return super().kept_messages()


def test_a_conversation_cleared_while_its_answer_ends_stays_empty():
    from paddle_glm.serving import conversation
    from paddle_glm.serving.pages.streamlit_page import Asked, Visit

    visit = Visit([[]], current=Asked("一", [[{"role": "user", "content": "一"}]], [SlowlyKept("好")]))
    ends = threading.Thread(target=visit.settle)
    ends.start()
    assert SlowlyKept.begun.wait(timeout=20)
    clears = threading.Thread(target=visit.change, args=(conversation.without_rounds,))
    clears.start()
    clears.join(0.2)  # time for what must not happen
    SlowlyKept.go.set()
    ends.join(20)
    clears.join(20)
    assert visit.talks == [[]]


def test_a_question_is_taken_up_once_and_not_after_a_click_that_clears():
    from paddle_glm.serving import conversation
    from paddle_glm.serving.pages.streamlit_page import Visit

    visit = Visit([[]])
    visit.ask("一")
    assert visit.begin().talks == [[{"role": "user", "content": "一"}]]
    assert visit.begin() is None
    visit.ask("二")
    visit.change(conversation.without_rounds)
    assert visit.begin() is None and visit.talks == [[]]


def test_a_system_prompt(start):
    page, models = start("base", system="短")
    assert page.sidebar.text_area[0].value == "短"
    ask(page, "一")
    page.sidebar.text_area[0].set_value("长").run()
    ask(page, "二")
    click(page, "清空对话")
    ask(page, "三")
    roles = [[(message["role"], message["content"]) for message in asked] for _, asked, _ in models.asked]
    assert [asked[0] for asked in roles] == [("system", "短"), ("system", "长"), ("system", "长")]
    assert len(roles[2]) == 2


def test_two_models_side_by_side(start):
    page, models = start("base", "tuned")
    ask(page, "一")
    page.sidebar.selectbox[1].set_value("tuned").run()
    ask(page, "二")
    assert [caption.value for caption in page.caption] == ["base", "tuned"] * 2
    base, tuned = saved(page)
    assert base[:2] == tuned[:2]  # the second goes on from what there was
    assert {base[3]["content"][:4], tuned[3]["content"][:5]} == {"base", "tuned"}
    click(page, "重新生成")
    assert [len(talk) for talk in saved(page)] == [4, 4]
    labels = [button.label for button in page.sidebar.download_button]
    assert labels == ["下载对话（base）", "下载对话（tuned）"]
    page.sidebar.selectbox[1].set_value(None).run()
    assert len(saved(page)) == 1
    page.sidebar.selectbox[0].set_value("tuned").run()
    ask(page, "三")
    assert models.asked[-1][0] == "tuned"


def test_a_conversation_that_is_too_long(start):
    page, _ = start("base")
    ask(ask(page, "一" * 40), "二" * 40)
    ask(page, "三" * 40)
    assert "删除最早的对话" in page.error[0].value
    assert page.chat_input[0].proto.value == "三" * 40  # the question is not lost
    assert len(shown(page)) == 4
    click(page, "删除最早的一轮并重试")
    assert not page.error
    assert [text[0] for text in shown(page)] == ["二", "b", "三", "b"]
    click(page, "清空对话")
    ask(page, "四" * 101)
    assert page.error and "删除最早的一轮并重试" not in [button.label for button in page.button]
    ask(page, "五")
    assert not page.error and shown(page)[0] == "五"


def test_loading_a_conversation(start):
    page, models = start("base")
    messages = [
        {"role": "system", "content": "短"},
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "二"},
    ]
    text = json.dumps({"messages": messages}).encode()
    page.file_uploader[0].set_value(("talk.json", text, "application/json")).run()
    assert shown(page) == ["一", "二"] and page.sidebar.text_area[0].value == "短"
    ask(page, "三")
    assert models.asked[0][1][:3] == messages
    page.file_uploader[0].set_value(("other.json", b"\xff[1]", "application/json")).run()
    assert "other\\.json 不是保存的对话" in page.error[0].value
    assert shown(page)[:2] == ["一", "二"]
