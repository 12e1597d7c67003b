"""The streamlit page in headless Chromium."""

import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import httpx
import pytest

from paddle_glm.serving import conversation
from tests.paths import ROOT
from tests.serving.browser import MODELS, PROMPT_LIMIT, chromium, expect, visit, wait_until
from tests.serving.test_web import free_port, start_page

pytest.importorskip("streamlit", reason="streamlit is not installed (extra `web`)")
QUESTION = "类型#上衣*样式#风衣*\n\n  <b>x</b> $a_1$ &amp; **粗** :red[红]"
ANSWER = """{model} $x^2$ \\(y\\) 12:30:45 :red[红]

```bash
echo $HOME && cat <file $PATH '\\(a\\)'
```

![a](http://a.example/b.png) <img src="http://a.example/c.png">

\\[ z \\]
**fin {number}**"""
SERVER = """
import itertools, sys
from dataclasses import replace
from starlette.middleware import Middleware
from paddle_glm.serving.http.middleware import OriginMiddleware
from paddle_glm.serving.pages.web_streamlit import run
from tests.serving.browser import ScriptedSession, scripted_provider

answer, port = sys.argv[1:]
numbers = itertools.count(1)

def open_session(values, model):
    return ScriptedSession(answer.replace("{model}", model).replace("{number}", str(next(numbers))))

access = Middleware(OriginMiddleware, allowed=[], local=True)
run(replace(scripted_provider(""), open=open_session), [], "127.0.0.1", int(port), access)
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def scripted():
    """The address of a page whose answers are numbered; streamlit needs a main thread."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, ANSWER, str(port)], cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    while True:
        assert process.poll() is None
        with suppress(httpx.TransportError):
            if httpx.get(address).is_success:
                break
        time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(timeout=60)


def box(page):
    return page.get_by_test_id("stChatInputTextArea")


def ask(page, question):
    box(page).fill(question)
    box(page).press("Enter")


def click(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def questions(page):
    return page.locator("[data-testid=stChatMessage] [data-testid=stText]")


def wait_for_answers(page, count):
    """Wait until so many are complete and the page is at rest."""
    expect(page.locator("[data-testid=stChatMessage] strong", has_text="fin")).to_have_count(
        count, timeout=20_000
    )
    expect(page.get_by_text("停止", exact=True)).to_have_count(0)


def click_for_another_answer(page, name, count):
    last = page.locator("[data-testid=stChatMessage] strong").last.inner_text()
    click(page, name)
    expect(page.get_by_text(last, exact=True)).to_have_count(0)
    wait_for_answers(page, count)


def download(page, name="下载对话"):
    with page.expect_download() as download:
        click(page, name)
    return conversation.from_json(download.value.path().read_bytes(), name)


def choose_second_model(page):
    page.get_by_test_id("stSelectbox").nth(1).locator("input").click()
    page.get_by_role("option", name=MODELS[1]).click()


def test_conversation(browser, scripted):
    with visit(browser, scripted) as page:
        ask(page, QUESTION)
        wait_for_answers(page, 1)
        assert questions(page).inner_text() == QUESTION and box(page).input_value() == ""
        answer = page.get_by_test_id("stChatMessage").nth(1)
        assert answer.locator(".katex").count() == 3 and answer.locator("img").count() == 0
        assert answer.locator("pre").inner_text().strip() == "echo $HOME && cat <file $PATH '\\(a\\)'"
        assert "12:30:45 :red[红]" in answer.inner_text()
        ask(page, "再来")
        wait_for_answers(page, 2)
        whole = download(page)
        assert [message["content"] for message in whole[::2]] == [QUESTION, "再来"]
        assert whole[1]["content"].startswith(ANSWER[:30].replace("{model}", MODELS[0]))
        click_for_another_answer(page, "重新生成", 2)
        click(page, "编辑上一轮")
        wait_for_answers(page, 1)
        expect(box(page)).to_have_value("再来")
        click(page, "清空对话")
        wait_for_answers(page, 0)
        click(page, "载入对话")
        page.locator("input[type=file]").set_input_files(
            {
                "name": "talk.json",
                "mimeType": "application/json",
                "buffer": conversation.to_json(whole).encode(),
            }
        )
        wait_for_answers(page, 2)
        page.keyboard.press("Escape")
        click(page, "删除上一轮")
        wait_for_answers(page, 1)
        page.get_by_label("系统提示").fill("短")
        ask(page, "好")
        wait_for_answers(page, 2)
        system = {"role": "system", "content": "短"}
        assert download(page)[:-1] == [system, *whole[:2], {"role": "user", "content": "好"}]


def test_two_models_and_a_conversation_that_is_too_long(browser, scripted):
    with visit(browser, scripted) as page:
        ask(page, "一")
        wait_for_answers(page, 1)
        choose_second_model(page)
        wait_for_answers(page, 2)  # the second has the first question and its answer too
        long = "二" * (PROMPT_LIMIT - 2 * len(ANSWER))
        ask(page, long)
        wait_for_answers(page, 4)
        question = "三" * (PROMPT_LIMIT - len(ANSWER))
        ask(page, question)
        expect(page.get_by_text("leaves no room")).to_be_visible()
        expect(box(page)).to_have_value(question)
        wait_for_answers(page, 4)
        click(page, "删除最早的一轮并重试")
        wait_for_answers(page, 2)
        click_for_another_answer(page, "删除最早的一轮并重试", 2)
        talks = [download(page, f"下载对话（{model}）") for model in MODELS]
        assert [len(talk) for talk in talks] == [2, 2]
        for talk, model in zip(talks, MODELS, strict=True):
            assert talk[1]["content"].startswith(model)


@contextmanager
def page_of(address):
    """The address of `paddle-glm web` over a server."""
    process, port = start_page("--ui", "streamlit", "--api_base", f"{address}/v1")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_stopping_on_a_telephone_in_the_dark(browser, serve_slow_model):
    address, scheduler = serve_slow_model()
    look = {"viewport": {"width": 390, "height": 780}, "color_scheme": "dark"}
    with page_of(address) as page_address, visit(browser, page_address, **look) as page:
        ask(page, "你好" * 20)
        expect(page.get_by_text("▌")).to_be_visible()
        wait_until(lambda: scheduler.running == 1)
        click(page, "停止")
        wait_until(lambda: scheduler.running == 0)
        expect(page.get_by_role("button", name="重新生成")).to_be_visible()
        assert len(page.get_by_test_id("stChatMessage").all()) == 2
        assert page.get_by_text("▌").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        dark = page.locator(".stApp").evaluate("element => getComputedStyle(element).backgroundColor")
        assert sum(map(int, dark.removeprefix("rgb(").rstrip(")").split(","))) < 150
