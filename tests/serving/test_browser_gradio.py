"""The gradio page in headless Chromium."""

from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from paddle_glm.generation import GenerationParams
from paddle_glm.serving import conversation
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.pages.chat_provider import local_provider
from tests.serving.browser import MODELS, PROMPT_LIMIT, chromium, expect, scripted_provider, visit, wait_until

pytest.importorskip("gradio", reason="gradio is not installed (extra `web`)")
QUEUES: dict = {}  # gradio's, of each served page
STREAMS: dict = {}  # open ones, of each visited page
QUESTION = "类型#上衣*样式#风衣*\n\n<b>x</b> $a_1$ &amp; **粗**"
ANSWER = """{model} $x^2$ \\(y\\)

```bash
echo $HOME && cat <file $PATH '\\(a\\)'
```

![a](http://a.example/b.png) <img src="http://a.example/c.png">

\\[ z \\]
**fin**"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@contextmanager
def served(provider):
    """The address of the page over a provider."""
    from paddle_glm.serving.pages.web_gradio import create_page, launch

    page = create_page(provider, [])
    try:
        address = launch(page, "127.0.0.1", None)
        QUEUES[urlsplit(address).netloc] = page._queue
        yield address
    finally:
        page.close()
        provider.close()


@pytest.fixture(scope="module")
def scripted():
    with served(scripted_provider(ANSWER)) as address:
        yield address


def box(page):
    return page.get_by_placeholder("输入内容")


@contextmanager
def opened(browser, address, **context):
    """`visit`, with the streams in which gradio sends outputs in `STREAMS`."""
    with visit(browser, address, **context) as page:
        streams = STREAMS[page] = set()
        page.on("request", lambda request: "/queue/data" in request.url and streams.add(request))
        page.on("requestfinished", lambda request: streams.discard(request))
        page.on("requestfailed", lambda request: streams.discard(request))
        yield page


@contextmanager
def settled(page):
    """Wait for all outputs of what gradio is made to do: its client drops what comes before that.

    It may then open a stream again for an action that has ended already, and keep it for the next one.
    """
    with page.expect_response("**/queue/join*"):
        yield
    queue = QUEUES[urlsplit(page.url).netloc]
    wait_until(lambda: not any(queue.pending_event_ids_session.values()))
    for _ in range(50):
        if STREAMS[page]:
            page.wait_for_timeout(20)


def ask(page, question):
    with settled(page):
        send(page, question)


def send(page, question):
    box(page).fill(question)
    box(page).press("Enter")


def click(page, name):
    with settled(page):
        press(page, name)


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def texts(page, role):
    return page.get_by_test_id(role).all_inner_texts()


def saved(page):
    """The conversations that the page lets download."""
    if not page.get_by_label("系统提示").is_visible():
        page.get_by_text("设置").click()
    with page.expect_download() as download:
        click(page, "下载对话")
    return conversation.from_json(download.value.path().read_text(encoding="utf-8"), "download")


def wait_for_answers(page, count):
    expect(page.locator("[data-testid=bot] strong", has_text="fin")).to_have_count(count)


def test_conversation(browser, scripted):
    with opened(browser, scripted) as page:
        ask(page, QUESTION)
        wait_for_answers(page, 1)
        assert texts(page, "user") == [QUESTION] and box(page).input_value() == ""
        expect(page.locator("[data-testid=bot] .katex")).to_have_count(3)
        assert (
            page.locator("[data-testid=bot] pre").inner_text().strip()
            == "echo $HOME && cat <file $PATH '\\(a\\)'"
        )
        assert page.locator("[data-testid=bot] img").count() == 0
        ask(page, "再来")
        wait_for_answers(page, 2)
        whole = saved(page)
        assert [message["content"] for message in whole[::2]] == [QUESTION, "再来"]
        assert whole[1]["content"] == ANSWER.replace("{model}", MODELS[0])
        click(page, "重新生成")
        wait_for_answers(page, 2)
        click(page, "编辑上一轮")
        wait_for_answers(page, 1)
        expect(box(page)).to_have_value("再来")
        click(page, "清空对话")
        wait_for_answers(page, 0)
        page.locator("input[type=file]").set_input_files(
            {
                "name": "talk.json",
                "mimeType": "application/json",
                "buffer": conversation.to_json(whole).encode(),
            }
        )
        wait_for_answers(page, 2)
        click(page, "删除上一轮")
        wait_for_answers(page, 1)
        page.get_by_label("系统提示").fill("短")
        ask(page, "好")
        wait_for_answers(page, 2)
        kept = saved(page)
        assert kept == [
            {"role": "system", "content": "短"},
            *whole[:2],
            {"role": "user", "content": "好"},
            whole[1],
        ]


def test_two_models_and_a_conversation_that_is_too_long(browser, scripted):
    with opened(browser, scripted) as page:
        ask(page, "一")
        with settled(page):
            page.get_by_label("对比").click()
            page.get_by_role("option", name=MODELS[1]).click()
        ask(page, "二")
        wait_for_answers(page, 4)  # the second model is told what the first one answered
        assert [text.partition(" ")[0] for text in texts(page, "bot")] == [*MODELS[:1] * 3, MODELS[1]]
        drop = page.get_by_role("button", name="删除最早的一轮并重试")
        expect(drop).to_be_hidden()
        long = "长" * (PROMPT_LIMIT - len(ANSWER) - 20)
        ask(page, long)
        expect(page.get_by_text("leaves no room")).to_be_visible()
        expect(box(page)).to_have_value(long)
        expect(page.get_by_test_id("user")).to_have_text(["一", "二"] * 2)
        click(page, "删除最早的一轮并重试")
        wait_for_answers(page, 4)
        expect(page.get_by_test_id("user")).to_have_text(["二", long] * 2)
        expect(drop).to_be_hidden()


def test_stop(browser, slow_engine):
    scheduler = Scheduler(slow_engine)
    with served(local_provider(scheduler, GenerationParams(do_sample=False, max_new_tokens=1500))) as address:
        with opened(browser, address) as page:
            with settled(page):
                send(page, "你好")
                expect(page.get_by_test_id("bot")).not_to_be_empty()
                assert scheduler.running == 1
                press(page, "停止")
            wait_until(lambda: scheduler.running == 0)
            assert len(texts(page, "bot")) == 1
            with settled(page):
                send(page, "再见")
                expect(page.get_by_test_id("bot")).to_have_count(2)
                press(page, "清空对话")
            wait_until(lambda: scheduler.running == 0)
            expect(page.get_by_test_id("user")).to_have_count(0)
            with settled(page):
                send(page, "又来")
                expect(page.get_by_test_id("bot")).not_to_be_empty()
                press(page, "停止")
            expect(page.get_by_test_id("user")).to_have_text(["又来"])
            question, answer = saved(page)
            assert question["content"] == "又来"
            expect(page.get_by_test_id("bot")).to_have_text([answer["content"]])
        with opened(browser, address) as page:
            send(page, "你好")
            expect(page.get_by_test_id("bot")).not_to_be_empty()
        wait_until(lambda: scheduler.running == 0)  # the visitor left


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser, scripted, scheme):
    phone = {"width": 390, "height": 844}
    with opened(browser, scripted, viewport=phone, is_mobile=True, color_scheme=scheme) as page:
        ask(page, "长" * 100)
        wait_for_answers(page, 1)
        assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
        red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
        assert (int(red) < 100) == (scheme == "dark")
