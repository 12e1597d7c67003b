"""The web pages, for real: gradio through its client, streamlit through its own test runner."""

import re
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import pytest

from paddle_glm.auto.engine import open_engine
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.main import main
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.http.address import bind
from paddle_glm.serving.pages.chat_provider import local_provider
from tests.paths import ROOT

pytest.importorskip("gradio", reason="gradio is not installed (extra `web`)")
streamlit_testing = pytest.importorskip(
    "streamlit.testing.v1", reason="streamlit is not installed (extra `web`)"
)

QUESTIONS = ("你好", "类型#裤")


@pytest.fixture(scope="module")
def conversation(tiny_checkpoint):
    """Two rounds in this process, as (role, text)."""
    engine = open_engine(tiny_checkpoint)
    session = ChatSession(
        engine.backend, engine.tokenizer, GenerationParams(do_sample=False, max_new_tokens=8)
    )
    messages: list = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        messages += session.answer(messages).messages
    return [(message["role"], message["content"]) for message in messages]


def free_port() -> int:
    with bind("127.0.0.1", 0) as bound:
        return bound.getsockname()[1]


def start_page(*flags: str) -> tuple[subprocess.Popen, int]:
    port = free_port()
    command = [sys.executable, "-m", "paddle_glm.main", "web", "--port", str(port), *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/").is_success:
                return process, port
        time.sleep(0.1)
    raise AssertionError("the page did not start")


def said(chat) -> list[tuple[str, str]]:
    """What gradio's client gives of a conversation, as (role, text)."""
    texts = ("".join(part["text"] for part in message["content"]) for message in chat)
    return [
        (message["role"], re.sub("</?pre.*?>", "", text)) for message, text in zip(chat, texts, strict=True)
    ]


def asking(question: str, max_new_tokens: int = 8) -> dict[str, object]:
    """Arguments of gradio's endpoint."""
    return {
        "question": question,
        "temperature": 0,
        "max_new_tokens": max_new_tokens,
        "system": "",
        "api_name": "/chat",
    }


def test_gradio_over_a_server(server, conversation):
    from gradio_client import Client

    process, port = start_page("--api_base", f"{server}/v1")
    try:
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        job = client.submit(**asking(QUESTIONS[0]))
        assert said(job.result()[0]) == conversation[:2]
        assert len(job.outputs()) > 1  # it streams
        assert said(client.predict(**asking(QUESTIONS[1]))[0]) == conversation
        assert client.predict(api_name="/clear")[0] == []
        assert said(client.predict(**asking(QUESTIONS[0]))[0]) == conversation[:2]
        other = Client(f"http://127.0.0.1:{port}", verbose=False)
        # A visitor does not see another's.
        assert said(other.predict(**asking(QUESTIONS[0]))[0]) == conversation[:2]
    finally:
        process.terminate()
        assert process.wait(timeout=120) == 0


FOREIGN = ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"})


def test_gradio_refuses_pages_of_other_origins(slow_engine):
    from starlette.middleware import Middleware

    from paddle_glm.serving.http.middleware import OriginMiddleware
    from paddle_glm.serving.pages.web_gradio import create_page, launch

    scheduler = Scheduler(slow_engine)
    page = create_page(local_provider(scheduler, GenerationParams()), [])
    access = Middleware(OriginMiddleware, allowed=["http://friend.example"], local=True)
    try:
        address = launch(page, "127.0.0.1", free_port(), access).rstrip("/")
        body = {"data": [None, " ", "", "", "", 0, 1, 1], "fn_index": 0, "session_hash": "a"}
        for headers in FOREIGN:
            assert httpx.get(address, headers=headers).status_code == 403
            joined = httpx.post(f"{address}/gradio_api/queue/join", json=body, headers=headers)
            assert joined.status_code == 403
        for headers in ({}, {"Origin": address}, {"Origin": "http://friend.example"}):
            assert httpx.get(address, headers=headers).status_code == 200
            joined = httpx.post(f"{address}/gradio_api/queue/join", json=body, headers=headers)
            assert joined.status_code == 200
    finally:
        page.close()
        scheduler.close()


def test_gradio_over_a_model_here(slow_engine):
    """Stopping ends generation, and an error leaves its round out."""
    from gradio_client import Client

    from paddle_glm.serving.pages.web_gradio import create_page, launch

    scheduler = Scheduler(slow_engine)
    page = create_page(local_provider(scheduler, GenerationParams(do_sample=False)), [])
    try:
        client = Client(launch(page, "127.0.0.1", free_port()), verbose=False)
        job = client.submit(**asking("你好", 1500))
        while len(job.outputs()) < 3:
            time.sleep(0.02)
        assert scheduler.running == 1
        job.cancel()
        for _ in range(500):
            if scheduler.running == 0:
                break
            time.sleep(0.01)
        assert scheduler.running == 0
        before = said(client.predict(**asking("  "))[0])
        assert before[0] == ("user", "你好") and before[1][1]
        chat, _, box, notice = client.predict(**asking("长" * 3000))
        assert said(chat) == before and box == "长" * 3000
        assert "leaves no room" in notice
    finally:
        page.close()
        scheduler.close()


def shown(page) -> list[tuple[str, str]]:
    return [
        (one.name, (one.text if one.name == "user" else one.markdown)[0].value) for one in page.chat_message
    ]


def test_streamlit_over_a_model_here(tiny_checkpoint, conversation, monkeypatch):
    """tools/web_demo2.py as `streamlit run` runs it."""
    flags = ["--model_path", str(tiny_checkpoint), "--do_sample", "False", "--max_new_tokens", "8"]
    monkeypatch.setattr(sys, "argv", ["web_demo2.py", *flags])
    page = streamlit_testing.AppTest.from_file(str(ROOT / "tools" / "web_demo2.py"), default_timeout=60).run()
    assert not page.exception and not page.error
    assert [slider.value for slider in page.sidebar.slider] == [0.0, 0.8, 8]
    for rounds, question in enumerate(QUESTIONS, 1):
        page.chat_input[0].set_value(question).run()
        assert not page.exception and not page.error
        assert shown(page) == conversation[: 2 * rounds]
    page.chat_input[0].set_value("长" * 3000).run()
    assert "leaves no room" in page.error[0].value
    page.run()
    assert shown(page) == conversation
    page.sidebar.button[0].click().run()
    assert shown(page) == []


def test_streamlit_shows_what_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["web_demo2.py", "--model_path", str(tmp_path / "nowhere")])
    page = streamlit_testing.AppTest.from_file(str(ROOT / "tools" / "web_demo2.py"), default_timeout=60).run()
    assert "nowhere not found" in page.error[0].value


def test_streamlit_as_a_process(server):
    process, port = start_page("--ui", "streamlit", "--api_base", f"{server}/v1")
    try:
        address = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{address}/_stcore/health").text == "ok"
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        for headers in (*FOREIGN, {"Origin": "http://localhost:3000"}):
            assert httpx.get(address, headers=headers).status_code == 403
            refused = httpx.get(f"{address}/_stcore/stream", headers={**upgrade, **headers})
            assert refused.status_code == 403
        with httpx.stream("GET", f"{address}/_stcore/stream", headers={**upgrade, "Origin": address}) as own:
            assert own.status_code == 101
    finally:
        process.terminate()
        process.wait(timeout=120)


@pytest.mark.parametrize("ui", ["gradio", "streamlit"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--model_path", "nowhere"], "nowhere not found"), (["--api_base", "http://127.0.0.1:9/v1"], "reached"),
     (["--model_path", "a", "--port", "70000"], "--port 70000"),
     ([], "give --model_name_or_path"), (["--model_path", "a", "--top_p", "7"], "top_p is 7")],
)  # fmt: skip
def test_errors_are_one_line(ui, flags, message, capsys):
    assert main(["web", "--ui", ui, *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("paddle-glm: error: ") and message in error
