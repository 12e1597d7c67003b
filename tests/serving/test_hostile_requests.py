"""Whatever JSON can carry is answered or refused; pages of other origins are refused."""

import json
import math

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_glm.auto.engine import Engine
from paddle_glm.generation import GenerationParams
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.http.app import create_app
from paddle_glm.serving.protocol.openai_request import ChatRequest
from tests.generation.numpy_model import NumpyBackend

CHAT = "/v1/chat/completions"
VALID = {
    CHAT: {
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "你"}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "none",
        "stop": ["。"],
        "seed": 1,
        "temperature": 0.5,
    },
    "/": {"prompt": "你", "history": [["a", "b"]], "top_p": 0.7},
}
TEXTS = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["\ud800", "\x00", "user", "\udcff a", "<|user|>"]
)
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([10**400, 1e-320, 1e308, -0.0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def client(tokenizer):
    backend = NumpyBackend(vocab=len(tokenizer), limit=512, logit_scale=0.5)
    params = GenerationParams(do_sample=False, max_new_tokens=3)
    scheduler = Scheduler(lambda: Engine(backend, tokenizer, params))
    with TestClient(create_app(scheduler, "model"), raise_server_exceptions=False) as client:
        yield client


def post(client, path, text):
    return client.post(path, content=text, headers={"Content-Type": "application/json"})


def places(value, path=()):
    """The paths of all values within a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def mutations(draw):
    """A path and a request of which one to three values were replaced, added or removed."""
    path = draw(st.sampled_from(sorted(VALID)))
    body = json.loads(json.dumps(VALID[path]))
    for _ in range(draw(st.integers(1, 3))):
        *route, last = draw(st.sampled_from([place for place in places(body) if place] or [("prompt",)]))
        target = body
        for key in route:
            target = target[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            target[last] = draw(VALUES)
        elif action == "remove":
            del target[last]
        elif isinstance(target, dict):
            target[draw(TEXTS | st.sampled_from(sorted(ChatRequest.model_fields)))] = draw(VALUES)
    return path, body


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations())
def test_mutated_requests_are_answered_or_refused(client, mutation):
    path, body = mutation
    response = post(client, path, json.dumps(body))
    assert response.status_code in (200, 400, 404), (response.text, body)
    if response.status_code != 200:
        assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", '"text"', "{", "\ufeff{}", "[" * 100_000),
        '{"messages":' * 900 + "1" + "}" * 900,
        '{"messages": [], "metadata": ' + "[" * 950 + "]" * 950 + "}",
        '{"prompt": ' + "9" * 5000 + "}",
    ],
)
@pytest.mark.parametrize("path", sorted(VALID))
def test_broken_bodies_are_refused(client, path, text):
    response = post(client, path, text.encode())
    assert response.status_code == 400 and response.json()["error"]["message"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have(client, value):
    """They would come back in the history, where no client could read them."""
    history = [{"role": "user", "content": "a", "score": value}, {"role": "assistant", "content": "b"}]
    assert "not a JSON value" in post(client, "/", json.dumps({"prompt": "a", "history": history})).text
    response = post(client, "/", '{"prompt": "a", "temperature": 1e999}')
    assert response.status_code == 400 and "1e999" in response.text


def test_what_utf8_does_not_have_comes_back_as_it_was_sent(client):
    history = [{"role": "user", "content": "a", "note": "\ud800"}, {"role": "assistant", "content": "b"}]
    response = post(client, "/", json.dumps({"prompt": "a", "history": history}))
    assert response.status_code == 200 and response.json()["history"][0] == history[0]


def test_prompts_that_cannot_fit_are_not_tokenized(client, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "text_to_ids", lambda *given, **options: pytest.fail("tokenized"))
    text = "长" * (512 * tokenizer.longest_piece + 1)
    bodies = {CHAT: {"messages": [{"role": "user", "content": text}]}, "/": {"prompt": text}}
    for path, body in {**bodies, "/v1/completions": {"prompt": text}}.items():
        response = post(client, path, json.dumps(body))
        assert response.status_code == 400 and "characters leaves no room" in response.text


def test_half_a_surrogate_pair_is_named(client):
    response = post(client, CHAT, json.dumps({"messages": [{"role": "user", "content": "a\ud800"}]}))
    assert response.status_code == 400 and r"'\ud800'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "local, headers, status",
    [
        (True, {}, 200),
        (True, {"Origin": "http://127.0.0.1:8000"}, 200),  # a page of this server
        (True, {"Host": "[::1]:8000"}, 200),
        (True, {"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),  # another port
        (True, {"Origin": "https://evil.example"}, 403),
        (True, {"Origin": "null"}, 403),
        (True, {"Host": "evil.example"}, 403),
        (True, {"Host": "evil.example", "Origin": "http://evil.example"}, 403),  # DNS rebinding
        (True, {"Origin": "http://friend.example"}, 200),
        (True, {"Host": "friend.example"}, 200),
        (False, {"Host": "server.lan"}, 200),
        (False, {"Host": "server.lan", "Origin": "http://server.lan"}, 200),
        (False, {"Host": "server.lan", "Origin": "http://evil.example"}, 403),
    ],
)
def test_pages_of_other_origins(tokenizer, local, headers, status):
    backend = NumpyBackend(vocab=len(tokenizer), limit=512, logit_scale=0.5)
    scheduler = Scheduler(lambda: Engine(backend, tokenizer, GenerationParams(max_new_tokens=2)))
    app = create_app(scheduler, "model", allow_origins=["http://friend.example"], local=local)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        body = {"messages": [{"role": "user", "content": "a"}]}
        response = client.post(CHAT, json=body, headers=headers)
        assert response.status_code == status
        origin = headers.get("Origin")
        shared = response.headers.get("Access-Control-Allow-Origin")
        assert shared == origin if origin == "http://friend.example" else shared is None
        if origin:
            asked = {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "Authorization",
            }
            preflight = client.options(CHAT, headers={**headers, **asked})
            assert (preflight.status_code == 200) == (origin == "http://friend.example")
