"""Pages in headless Chromium: the browser, and a model that answers from a script."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from paddle_glm.chat_template import Message
from paddle_glm.errors import PromptTooLongError
from paddle_glm.serving.pages.answers import Answer
from paddle_glm.serving.pages.chat_provider import ChatProvider

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -c constraints.txt playwright"
)
expect = playwright.expect  # waits until it is true
expect.set_options(timeout=30_000)
MODELS = ("chatglm2-6b", "advert-lora")
NO_OTHER_HOSTS = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
PROMPT_LIMIT = 2000  # characters, for the scripted model


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none. asyncio is busy in this thread meanwhile."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no browser: apt-get install chromium (Debian, Ubuntu), or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[NO_OTHER_HOSTS])
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, address: str, **context: Any) -> Iterator[Any]:
    """A page of its own profile; what it asks of other hosts fails the test.

    context: of playwright's `new_context`, such as `color_scheme` and `viewport`.
    """
    profile = browser.new_context(**context)
    foreign: list[str] = []

    def check(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(address).netloc:
            foreign.append(request.url)

    profile.on("request", check)
    page = profile.new_page()
    page.goto(address)
    yield page
    profile.close()
    assert foreign == []


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


class ScriptedSession:
    """Answers with `text` in small pieces; refuses conversations above `PROMPT_LIMIT` characters."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.reply: Answer | None = None

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        if sum(len(message["content"]) for message in messages) > PROMPT_LIMIT:
            raise PromptTooLongError("the prompt leaves no room for an answer")
        for start in range(0, len(self.text), 7):
            yield self.text[start : start + 7]
        self.reply = Answer(messages=[{"role": "assistant", "content": self.text}])


def scripted_provider(answer: str) -> ChatProvider:
    """A provider of two models; `answer` may have a `{model}`."""

    def open_session(values: Mapping[str, Any], model: str) -> ScriptedSession:
        return ScriptedSession(answer.replace("{model}", model))

    return ChatProvider("ChatGLM2-6B", MODELS, 0.95, 0.8, 1024, open_session, lambda: None)
