"""`paddle-glm serve` as clients see it: real processes and real sockets."""

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection

import httpx
import pytest

from paddle_glm.auto.engine import open_engine
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.main import main
from paddle_glm.serving.http.address import bind
from tests.serving.conftest import GREEDY, start_server

PATH = "/v1/chat/completions"
QUESTIONS = ["你好", "类型#裤*版型#宽松", "再见，明天见", "类型#裙", "颜色#白色*风格#简约*材质#棉", "a"]


def asking(text, **fields):
    return {"messages": [{"role": "user", "content": text}], **fields}


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def unanswered(address, body):
    """A request whose client leaves without its answer when the block ends."""
    url = httpx.URL(address)
    connection = HTTPConnection(url.host, url.port)
    connection.request("POST", PATH, json.dumps(body), {"Content-Type": "application/json"})
    yield
    connection.close()


@pytest.fixture(scope="module")
def expected(tiny_checkpoint):
    """What a session in this process answers, with the defaults of `GREEDY`."""
    engine = open_engine(tiny_checkpoint)
    session = ChatSession(
        engine.backend, engine.tokenizer, GenerationParams(do_sample=False, max_new_tokens=12)
    )
    return {text: session.answer([{"role": "user", "content": text}]) for text in QUESTIONS}


def events(response):
    """The JSON values of a finished stream; its last event has to be [DONE]."""
    *values, last = [part.removeprefix("data: ") for part in response.text.strip().split("\n\n")]
    assert last == "[DONE]"
    return [json.loads(value) for value in values]


def test_an_answer_is_the_local_ones(server, expected):
    for text, reply in expected.items():
        body = httpx.post(server + PATH, json=asking(text, **GREEDY)).json()
        [choice] = body["choices"]
        assert choice["message"] == {"role": "assistant", "content": visible_text(reply.messages)}
        assert choice["finish_reason"] == reply.finish_reason
        assert body["usage"] == {
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        }


def test_a_stream_holds_the_same_words(server, expected):
    request = asking("你好", **GREEDY, stream=True, stream_options={"include_usage": True})
    response = httpx.post(server + PATH, json=request)
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    assert text == visible_text(expected["你好"].messages)
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 12
    assert len({chunk["id"] for chunk in (first, *middle, last, usage)}) == 1


def test_requests_at_once_do_not_touch_each_other(server, expected):
    """Of different lengths, some sampling: they share batches, join and leave."""

    def ask(index):
        text = QUESTIONS[index % len(QUESTIONS)]
        if index % 3 == 2:
            fields = {"seed": index % 2, "temperature": 1.5, "max_tokens": 4 + index}
        else:
            fields = GREEDY
        body = httpx.post(server + PATH, json=asking(text, **fields), timeout=60).json()
        return index, text, body["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(24)))
    for index, text, answer in answers:
        if index % 3 != 2:
            assert answer == visible_text(expected[text].messages)
        else:  # the same request alone
            assert answer == ask(index)[2]


def test_requests_at_once_to_a_quantised_model(tiny_checkpoint, tmp_path, monkeypatch):
    """With activations rounded to int8, as by default, rows do not depend on those beside them."""
    monkeypatch.delenv("PADDLE_GLM_ARITHMETIC")
    words = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(tmp_path / "int4")]
    assert main(["quantize", *words, "--bits", "4"]) == 0
    process, address = start_server(tmp_path / "int4")

    def ask(text):
        body = httpx.post(address + PATH, json=asking(text, **GREEDY), timeout=60).json()
        return body["choices"][0]["message"]["content"]

    alone = [ask(text) for text in QUESTIONS]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, QUESTIONS * 4)) == alone * 4
    process.terminate()
    assert "Traceback" not in process.communicate(timeout=120)[0]


def test_a_seed_repeats_and_a_stop_ends(server):
    sampled = asking("你好", seed=5, temperature=1.2, max_tokens=16)
    text, again = (httpx.post(server + PATH, json=sampled).json()["choices"][0] for _ in range(2))
    assert text == again
    content = text["message"]["content"]
    stop = content[len(content) // 2 :][:2]
    body = httpx.post(server + PATH, json={**sampled, "stop": ["never said", stop]}).json()
    assert body["choices"][0]["message"]["content"] == content[: content.index(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 16
    chunks = events(httpx.post(server + PATH, json={**sampled, "stop": stop, "stream": True}))
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == content[: content.index(stop)]


def test_a_conversation_with_parts_and_a_system_message(server):
    parts = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
    rounds = [{"role": "assistant", "content": "世界"}, {"role": "user", "content": "再见"}]
    bodies = [
        {"messages": [{"role": role, "content": "短"}, {"role": "user", "content": content}, *rounds]}
        for role, content in (("system", "你好"), ("developer", parts))
    ]
    answers = [httpx.post(server + PATH, json={**body, **GREEDY}).json()["choices"] for body in bodies]
    assert answers[0] == answers[1]


def test_the_page_of_requests_loads_nothing_from_other_hosts(server):
    page = httpx.get(server + "/docs")
    assert page.status_code == 200
    loaded = re.findall(r"(?:src|href)=\"(.*?)\"", page.text)
    assert len(loaded) >= 2
    for path in loaded:
        assert path.startswith("/"), path
        assert httpx.get(server + path).status_code == 200
    assert "http" not in re.sub(r"<!--.*?-->", "", page.text)


def test_models_and_health(server, tiny_checkpoint):
    assert httpx.get(server + "/v1/models").json()["data"][0]["id"] == tiny_checkpoint.name
    assert httpx.get(server + "/health").json()["status"] == "ok"
    fields = httpx.get(server + "/openapi.json").json()["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "temperature", "stream"} <= set(fields)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [({"messages": []}, 400, "messages is []"), ({"messages": "hi"}, 400, "messages is 'hi'"),
     ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content is 5"),
     ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "is 'image_url'"),
     ({"messages": [{"role": "user"}]}, 400, "role 'user' has no content"),
     ({"messages": [{"role": "robot", "content": "a"}]}, 400, "role 'robot'"),
     ({"topp": 0.5}, 400, "topp is not a field of the request (did you mean 'top_p'?)"),
     ({"temperature": "hot"}, 400, "temperature is 'hot'"), ({"temperature": -1}, 400, "temperature is -1"),
     ({"top_p": 1.5}, 400, "top_p is 1.5"), ({"max_tokens": 0}, 400, "max_new_tokens is 0"),
     ({"max_tokens": 1, "max_completion_tokens": 2}, 400, "give one of them"), ({"n": 0}, 400, "n is 0"),
     ({"presence_penalty": 3}, 400, "presence_penalty is 3"), ({"stop": ""}, 400, "stop is ''"),
     ({"tools": [{"type": "function"}]}, 400, "tools.0.function is missing"),
     ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "chatglm2 was not trained to call"),
     ({"seed": -3}, 400, "seed is -3"),
     ({"model": "gpt-4"}, 404, "'gpt-4' does not exist"),
     ({"messages": [{"role": "user", "content": "长" * 3000}]}, 400, "leaves no room")],
)  # fmt: skip
def test_bad_requests_name_the_value(server, change, status, message):
    for stream in (False, True):
        response = httpx.post(server + PATH, json={**asking("你好"), "stream": stream, **change})
        assert response.status_code == status
        error = response.json()["error"]
        assert message in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"] == "context_length_exceeded") == (message == "leaves no room")


def test_what_is_no_request(server):
    cases = [
        (httpx.post(server + PATH, content=b"{", headers={"Content-Type": "application/json"}), 400, "JSON"),
        (httpx.post(server + PATH, content=b"{}"), 415, "application/json"),
        (httpx.post(server + PATH, json=asking("x" * (1 << 20))), 413, "1048576 bytes"),
        (httpx.get(server + PATH), 405, "Method Not Allowed"),
        (httpx.post(server + "/v2"), 404, "Not Found"),
    ]
    for response, status, message in cases:
        assert response.status_code == status
        assert message in response.json()["error"]["message"]


def test_fields_that_ask_for_nothing_are_taken(server):
    neutral = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": False}
    idle = {"user": "me", "response_format": {"type": "text"}, "tools": None, "top_k": -1, "seed": None}
    body = httpx.post(server + PATH, json=asking("你好", **neutral, **idle, **GREEDY))
    assert body.status_code == 200


def test_thudms_protocol(server, tiny_checkpoint):
    """Two rounds are those of `model.chat`."""
    from paddle_glm import AutoModel, AutoTokenizer

    model, tokenizer = (
        AutoModel.from_pretrained(tiny_checkpoint),
        AutoTokenizer.from_pretrained(tiny_checkpoint),
    )
    history: list = []
    ours: list = []
    for question, length in (("你好", 60), ("再见", 300)):
        request = {"prompt": question, "history": history, "max_length": length, "temperature": 0, "new": 1}
        body = httpx.post(server + "/", json=request).json()
        assert body.get("error") is None
        assert set(body) == {"response", "history", "status", "time"} and body["status"] == 200
        answer, ours = model.chat(tokenizer, question, ours, max_length=length, do_sample=False)
        assert body["response"] == answer
        assert body["history"] == [list(pair) for pair in ours]
        history = body["history"]
    refused = httpx.post(server + "/", json={"prompt": "你好", "top_p": 3})
    assert refused.status_code == 400 and "top_p is 3" in refused.json()["error"]["message"]
    assert httpx.post(server + "/", json={}).status_code == 400


def test_sampling_and_seeds_are_thudms_defaults_when_null(server):
    request = {"prompt": "你好", "history": None, "max_length": None, "top_p": None, "temperature": None}
    body = httpx.post(server + "/", json={**request, "max_length": 60}).json()
    assert body["history"] == [["你好", body["response"]]]


def test_a_client_that_leaves_ends_its_answer(serve_slow_model):
    address, scheduler = serve_slow_model()
    long = asking("你好", max_tokens=1500)
    with httpx.stream("POST", address + PATH, json={**long, "stream": True}) as response:
        chunks = response.iter_bytes()
        next(chunks)
        wait_until(lambda: scheduler.running == 1)
    wait_until(lambda: scheduler.running == 0)
    with unanswered(address, long):
        wait_until(lambda: scheduler.running == 1)
    wait_until(lambda: scheduler.running == 0 and scheduler.waiting == 0)
    assert len(scheduler.engine.backend.steps) < 1000


def test_a_full_queue_refuses_and_health_answers(serve_slow_model):
    address, scheduler = serve_slow_model(max_batch_size=1, max_waiting=1)
    long = asking("你好", max_tokens=1500)
    with unanswered(address, long):
        wait_until(lambda: scheduler.running == 1)
        with unanswered(address, long):
            wait_until(lambda: scheduler.waiting == 1)
            refused = httpx.post(address + PATH, json=long)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            error = refused.json()["error"]
            assert "try again later" in error["message"]
            assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
            assert httpx.get(address + "/health").json() == {"status": "ok", "running": 1, "waiting": 1}
    # Both have left: the one that waited gives its place up without being generated.
    assert httpx.post(address + PATH, json=asking("你好", max_tokens=1), timeout=60).status_code == 200


def test_a_key_is_asked_for(serve_slow_model):
    address, _ = serve_slow_model(api_key="sesame")
    request = asking("你好", max_tokens=1)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}):
        for path in (PATH, "/"):
            refused = httpx.post(address + path, json=request, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(address + "/v1/models", headers=headers).status_code == 401
    assert httpx.get(address + "/health").status_code == 200
    right = {"Authorization": "Bearer sesame"}
    assert httpx.post(address + PATH, json=request, headers=right).status_code == 200


def test_a_body_without_a_length_is_bounded_too(serve_slow_model):
    address, _ = serve_slow_model(max_body_bytes=1000)

    def chunks():
        for _ in range(100):
            yield b"x" * 100

    headers = {"Content-Type": "application/json"}
    assert httpx.post(address + PATH, content=chunks(), headers=headers).status_code == 413


def test_a_defect_says_nothing_of_the_inside(serve_slow_model):
    address, scheduler = serve_slow_model()
    scheduler.engine.backend.run = lambda inputs: 1 / 0
    request = asking("你好", max_tokens=4)
    failed = httpx.post(address + PATH, json=request)
    assert failed.status_code == 500
    assert failed.json()["error"]["message"] == "generation failed: see the server's log"
    streamed = httpx.post(address + PATH, json={**request, "stream": True}).text
    assert "generation failed" in streamed and "[DONE]" not in streamed
    del scheduler.engine.backend.run
    assert httpx.post(address + PATH, json=request).status_code == 200


def test_a_port_that_is_taken_is_said_before_a_model_is_read(capsys):
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        for command in (["serve"], ["web"], ["web", "--ui", "streamlit"]):
            assert main([*command, "--model_path", "nowhere", "--port", port]) == 2
            assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_shutting_down_lets_answers_end(tiny_checkpoint):
    """SIGTERM while a stream runs: it is completed, then the process ends."""
    process, address = start_server(tiny_checkpoint, "--api_key", "sesame")
    request = asking("你好", temperature=0, max_tokens=200, stream=True)
    headers = {"Authorization": "Bearer sesame"}
    try:
        with httpx.stream("POST", address + PATH, json=request, headers=headers) as response:
            chunks = response.iter_text()
            text = next(chunks)
            process.send_signal(signal.SIGTERM)
            text += "".join(chunks)
        assert text.endswith("data: [DONE]\n\n")
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM
    assert "Application shutdown complete" in output
    assert "sesame" not in output


def test_answers_that_take_too_long_at_shutdown_are_refused(tiny_checkpoint):
    process, address = start_server(tiny_checkpoint, "--shutdown_timeout", "1")
    long = asking("你好", n=8, logit_bias={"2": -100})  # goes on until the model's limit
    try:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx.post, address + PATH, json=long, timeout=120)
            wait_until(lambda: httpx.get(address + "/health").json()["running"] == 8)
            process.send_signal(signal.SIGTERM)
            assert answer.result().status_code == 503
        assert "shutting down" in answer.result().json()["error"]["message"]
        assert "Traceback" not in process.communicate(timeout=120)[0]
    finally:
        process.kill()
