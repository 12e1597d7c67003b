"""`paddle_glm_infer --serve` as clients see it: beside Python's server, and with clients that misbehave."""

import gzip
import json
import random
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.cpp.serving import (
    PATH,
    CppServer,
    asking,
    events,
    start_cpp_server,
    wait_until,
)
from tests.cpp.test_build import sanitized, toy_folder
from tests.cpp.test_infer import folder, infer, refusal  # noqa: F401
from tests.serving.conftest import GREEDY, start_server

QUESTIONS = ("你好", "类型#裤*版型#宽松", "a\0b 𝄞", "")
LONG = asking("你好", temperature=0, max_tokens=1900)


@pytest.fixture
def start() -> Iterator[Callable[..., CppServer]]:
    """`start_cpp_server`; what a failed test leaves is killed."""
    servers = []

    def start_one(*words: Any, **options: Any) -> CppServer:
        servers.append(start_cpp_server(*words, **options))
        return servers[-1]

    yield start_one
    for server in servers:
        server.process.kill()


@pytest.fixture(scope="module")
def server(folder) -> Iterator[CppServer]:  # noqa: F811
    started = start_cpp_server(folder, "--max_new_tokens", 12)
    yield started
    started.end()


@pytest.fixture(scope="module")
def python_server(folder) -> Iterator[str]:  # noqa: F811
    process, address = start_server(folder)
    yield address
    process.terminate()
    process.communicate(timeout=120)


def answer_of(response: httpx.Response) -> dict:
    body = response.json()
    return {name: body[name] for name in ("object", "model", "choices", "usage")}


def said(server: CppServer, request: dict) -> str:
    return server.post(request).json()["choices"][0]["message"]["content"]


TURNS = [("system", "短"), ("user", "你好"), ("assistant", "世界"), ("user", "再见")]
TALK = {"messages": [{"role": role, "content": text} for role, text in TURNS]}
PARTS = {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]}
REQUESTS = [
    *(asking(text, **GREEDY) for text in QUESTIONS),
    {**TALK, **GREEDY, "n": 1, "tools": None, "user": "me", "top_k": -1, "seed": None},
    {"messages": [PARTS], "temperature": 1.5, "top_p": 0.9, "seed": 7, "max_completion_tokens": 9},
    asking("你好", temperature=0.7, top_k=3, repetition_penalty=1.2, seed=2**40, max_tokens=9),
]


@pytest.mark.parametrize("request_body", REQUESTS)
def test_answers_are_those_of_pythons_server(server, python_server, request_body):
    """Complete, streamed, and ended by a stop string."""
    expected = answer_of(httpx.post(python_server + PATH, json=request_body, timeout=120))
    assert answer_of(server.post(request_body)) == expected
    content = expected["choices"][0]["message"]["content"]
    streaming = {**request_body, "stream": True, "stream_options": {"include_usage": True}}
    first, *middle, last, usage = events(server.post(streaming).text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == content
    assert last["choices"][0]["finish_reason"] == expected["choices"][0]["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], expected["usage"])
    assert len({chunk["id"] for chunk in (first, *middle, last, usage)}) == 1
    stopped = {**request_body, "stop": ["never said", content[len(content) // 2 :][:2]]}
    reply = answer_of(server.post(stopped))
    assert reply == answer_of(httpx.post(python_server + PATH, json=stopped, timeout=120))
    assert reply["choices"][0]["finish_reason"] == "stop"
    text = "".join(
        chunk["choices"][0]["delta"].get("content", "")
        for chunk in events(server.post({**stopped, "stream": True}).text)
    )
    assert text == reply["choices"][0]["message"]["content"] == content[: content.index(stopped["stop"][1])]


def test_answers_are_those_of_the_program(server, folder):  # noqa: F811
    asked = ("--model_dir", folder, "--prompt", "你好", "--max_new_tokens", 12)
    assert said(server, asking("你好", **GREEDY)) + "\n" == infer(*asked)


def test_openais_package(server):
    openai = pytest.importorskip("openai", reason="pip install openai")
    client = openai.OpenAI(base_url=server.address + "/v1", api_key="none")
    model = client.models.list().data[0].id
    asked = {"model": model, "messages": [{"role": "user", "content": "你好"}], **GREEDY}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert whole.choices[0].message.content == streamed == said(server, asking("你好", **GREEDY))
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(**{**asked, "model": "gpt-4"})


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [({"messages": []}, 400, "messages is []"), ({"messages": "hi"}, 400, 'messages is "hi"'),
     ({"messages": None}, 400, "messages is missing"), ({"messages": ["hi"]}, 400, "messages.0 is"),
     ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content is 5"),
     ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
     ({"messages": [{"role": "user"}]}, 400, "has no content"), ({"messages": [{}]}, 400, "messages.0.role"),
     ({"messages": [{"role": "robot", "content": "a"}]}, 400, "role 'robot'"),
     ({"messages": [{"role": "user", "content": "a", "image": "b"}]}, 400, "messages.0.image is"),
     ({"topp": 0.5}, 400, '"topp" is not a field'), ({"temperature": "hot"}, 400, 'temperature is "hot"'),
     ({"temperature": -1}, 400, "temperature is -1"), ({"top_p": 1.5}, 400, "top_p is 1.5"),
     ({"top_k": 1.5}, 400, "top_k is 1.5"), ({"top_k": -2}, 400, "top_k is -2"),
     ({"stream": "yes"}, 400, 'stream is "yes"'), ({"stream_options": 1}, 400, "stream_options is 1"),
     ({"max_tokens": 0}, 400, "max_new_tokens is 0"), ({"max_tokens": True}, 400, "max_tokens is true"),
     ({"max_tokens": 1, "max_completion_tokens": 2}, 400, "give one of them"), ({"n": 2}, 400, "n is 2"),
     ({"presence_penalty": 1}, 400, "presence_penalty is 1"), ({"stop": ""}, 400, 'stop is ""'),
     ({"stop": ["a"] * 17}, 400, "at most 16"), ({"seed": -3}, 400, "seed is -3"),
     ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "calls no tools"),
     ({"model": "gpt-4"}, 404, '"gpt-4" does not exist'), ({"model": 5}, 400, "model is 5"),
     ({"messages": [{"role": "user", "content": "长" * 3000}], "max_tokens": 2**63}, 400, "leaves no room")],
)  # fmt: skip
def test_bad_requests_name_the_value(server, python_server, change, status, message):
    for stream in (False, True):
        request = {**asking("你好"), "stream": stream, **change}
        response = server.post(request)
        assert response.status_code == status
        error = response.json()["error"]
        assert message in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
    answers_there = {"n", "presence_penalty"} & change.keys()  # the server in Python supports them
    assert httpx.post(python_server + PATH, json=request).status_code == (200 if answers_there else status)


def test_what_is_no_request(server):
    refused = {
        b"": "JSON", b"{": "JSON", b"5": "the body is 5", b'{"messages": "\xff"}': "JSON",
        b'{"messages": "\\ud800"}': "JSON", b'{"temperature": 1e999}': "JSON", b'{"seed": NaN}': "JSON",
        b"[" * 1000000: "nested more than 32", b'{"a":' * 200000: "nested more than 32",
        b'{"messages": [], "seed": 1' + b"0" * 10000 + b"}": "JSON",
    }  # fmt: skip
    for body, message in refused.items():
        response = server.raw(body)
        assert (response.status_code, message in response.json()["error"]["message"]) == (400, True), message
    address = server.address
    cases = [
        (httpx.post(address + PATH, content=b"{}"), 415, "application/json"),
        (httpx.post(address + PATH, files={"file": b"x" * 1000}), 415, "application/json"),
        (server.post(asking("x" * (1 << 20))), 413, "1048576 bytes"),
        (server.raw(gzip.compress(b" " * (1 << 22)), **{"Content-Encoding": "gzip"}), 413, "1048576 bytes"),
        (server.raw(iter([b"x" * 65536] * 17)), 413, "1048576 bytes"),  # type: ignore[arg-type]
        (httpx.get(address + PATH), 405, "Method Not Allowed"),
        (httpx.put(address + "/health", content=b"x"), 405, "Method Not Allowed"),
        (httpx.post(address + "/v2"), 404, "Not Found"),
        (httpx.get(address + "/" + "a" * 9000), 414, "not valid HTTP"),
        (httpx.get(address + "/v1/models", headers={"Range": "bytes=5-1"}), 416, "not valid HTTP"),
    ]
    for response, status, message in cases:
        assert response.status_code == status
        assert message in response.json()["error"]["message"]
    assert httpx.get(address + "/health", headers={"Range": "bytes=900-"}).json()["status"] == "ok"


def test_two_clients_at_once(server):
    questions = [QUESTIONS[index % 2] for index in range(12)]
    alone = {text: said(server, asking(text, **GREEDY)) for text in questions}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda text: said(server, asking(text, **GREEDY)), questions))
    assert answers == [alone[text] for text in questions]


def test_a_client_that_leaves_ends_its_answer(server):
    start = server.cpu_seconds()
    assert server.post(LONG).json()["usage"]["completion_tokens"] == 1900
    complete = server.cpu_seconds() - start
    start = server.cpu_seconds()
    for _ in range(6):
        with httpx.stream("POST", server.address + PATH, json={**LONG, "stream": True}) as response:
            next(response.iter_bytes())
    waiting = [server.connect(LONG) for _ in range(3)]
    wait_until(lambda: server.health()["waiting"] >= 1)
    for connection in waiting:
        connection.close()
    wait_until(lambda: server.health() == {"status": "ok", "running": 0, "waiting": 0})
    assert server.cpu_seconds() - start < 4 * complete  # of the nine that left


def test_a_full_queue_refuses_and_a_signal_lets_answers_end(start, folder):  # noqa: F811
    server = start(folder, "--max_waiting", 1, "--served_model_name", "mine")
    running = server.connect({**LONG, "stream": True, "model": "mine"})
    wait_until(lambda: server.health()["running"] == 1)
    waiting = server.connect(asking("你好", **GREEDY))
    wait_until(lambda: server.health()["waiting"] == 1)
    refused = server.post(asking("你好"))
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert "1 are waiting: try again later" in refused.json()["error"]["message"]
    server.process.send_signal(signal.SIGINT)
    assert len(events(running.getresponse().read().decode())) > 100
    assert json.loads(waiting.getresponse().read())["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(timeout=120) == 0


def test_a_second_signal_ends_what_runs(start, folder):  # noqa: F811
    server = start(folder)
    running = [server.connect({**LONG, "stream": stream}) for stream in (True, False)]
    wait_until(lambda: server.health() == {"status": "ok", "running": 1, "waiting": 1})
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not server.is_listening())  # or both signals might become one
    server.process.send_signal(signal.SIGTERM)
    last = running[0].getresponse().read().decode().strip().split("\n\n")[-1]
    assert "the server is shutting down" in last and "[DONE]" not in last
    assert running[1].getresponse().status == 503
    assert server.process.wait(timeout=120) == 0


def test_a_key_is_asked_for(start, folder, tmp_path):  # noqa: F811
    (tmp_path / "key").write_text("sesame\n")
    request = asking("你好", max_tokens=1)
    for flags, variables in (
        (("--api_key_file", tmp_path / "key"), {}),
        ((), {"PADDLE_GLM_API_KEY": "sesame"}),
    ):
        server = start(folder, *flags, **variables)
        for given in (None, "Bearer wrong", "Bearer", "sesame", "Bearer sesamesesame"):
            headers = {"Authorization": given} if given else {}
            refused = server.post(request, headers=headers)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
            assert httpx.get(server.address + "/v1/models", headers=headers).status_code == 401
        assert server.health()["status"] == "ok"
        assert server.post(request, headers={"Authorization": "Bearer sesame"}).status_code == 200
        server.end()


def test_flags_that_are_refused(folder, tmp_path):  # noqa: F811
    serve = ("--model_dir", folder, "--serve")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("--model_dir", "/nowhere", "--serve", "--port", port)
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in refusal(*words)
    assert "--port 70000: expected 0 to 65535" in refusal(*serve, "--port", 70000)
    assert "--max_waiting 0: expected at least 1" in refusal(*serve, "--max_waiting", 0)
    assert "expected at most 512, because" in refusal(*serve, "--max_waiting", 513)
    assert "--serve takes no --system" in refusal(*serve, "--system", "短")
    assert "expected a file whose first line is a key" in refusal(*serve, "--api_key_file", tmp_path / "no")


def mutated(random_: random.Random) -> bytes:
    """A request with wrong types, missing pieces, or broken bytes."""
    request = asking("你好", max_tokens=2, temperature=0.5, top_p=0.9, seed=1, stop=["a"], stream=False)
    odd = [None, True, -1, 0, 1e308, 2**70, -(2**63), "", "文" * 5000, [], {}, [[[]]], {"a": {}}, "\0", 0.5]
    names = [*request, "top_k", "n", "model", "tools", "logit_bias", "response_format", "stream_options"]
    for _ in range(random_.randint(1, 3)):
        request[random_.choice(names)] = random_.choice(odd)
    if random_.random() < 0.5:
        role = random_.choice(["user", "system", "assistant", *odd])
        request["messages"] = [{"role": role, "content": random_.choice(["你", *odd])} for _ in range(2)]
    body = bytearray(json.dumps(request, ensure_ascii=False).encode())
    for _ in range(random_.choice([0, 0, 1, 4])):
        place = random_.randrange(len(body))
        body[place : place + random_.randint(0, 3)] = random_.randbytes(random_.randint(0, 3))
    return bytes(body)


def check_mutated_requests(server: CppServer, count: int) -> None:
    random_ = random.Random(12)
    bodies = [mutated(random_) for _ in range(count)]
    with ThreadPoolExecutor(4) as pool:
        statuses = [response.status_code for response in pool.map(server.raw, bodies)]
    assert set(statuses) == {200, 400, 404}


def test_mutated_requests_and_memory(server):
    request = asking("你好", temperature=0, max_tokens=4)
    expected = said(server, request)
    check_mutated_requests(server, 300)
    before = server.megabytes()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: said(server, request), range(200))) == {expected}
    assert server.megabytes() < before + 4


@pytest.mark.slow
def test_sanitizers_find_nothing_in_the_server(start, folder, tmp_path):  # noqa: F811
    toy = toy_folder(folder, tmp_path / "toy")
    server = start(toy, "--engine", "toy", program=sanitized() / "paddle_glm_infer")
    check_mutated_requests(server, 200)
    with httpx.stream("POST", server.address + PATH, json={**LONG, "stream": True}) as response:
        next(response.iter_bytes())
    server.end()
