"""Fields and routes of OpenAI's protocol beyond a plain chat completion."""

import json
import math

import pytest
from fastapi.testclient import TestClient

from paddle_glm.auto.engine import Engine
from paddle_glm.generation import GenerationParams
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.http.app import create_app
from tests.generation.numpy_model import NumpyBackend

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
QUESTION = {"messages": [{"role": "user", "content": "你好 a"}], "max_tokens": 12}


@pytest.fixture(scope="module")
def client(tokenizer):
    backend = NumpyBackend(vocab=len(tokenizer), limit=512, logit_scale=0.5)
    scheduler = Scheduler(lambda: Engine(backend, tokenizer, GenerationParams(do_sample=False)))
    with TestClient(create_app(scheduler, "org/model")) as client:
        yield client


def answer(client, path=CHAT, **body):
    response = client.post(path, json={**(QUESTION if path == CHAT else {}), **body})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(client, path=CHAT, **body):
    response = client.post(path, json={**(QUESTION if path == CHAT else {}), **body})
    assert response.status_code == 400
    return response.json()["error"]["message"]


def stream(client, path=CHAT, **body):
    text = client.post(path, json={**(QUESTION if path == CHAT else {}), **body, "stream": True}).text
    *events, last = text.strip().split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def words(completion):
    return [choice["message"]["content"] for choice in completion["choices"]]


def test_log_probabilities_of_chat(client):
    [choice] = answer(client, logprobs=True, top_logprobs=3)["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 12
    assert b"".join(bytes(one["bytes"]) for one in entries).decode(errors="replace").strip()
    for one in entries:
        best, *others = one["top_logprobs"]
        assert {key: one[key] for key in best} == best  # greedy
        assert len(others) == 2 and 0 > best["logprob"] >= others[0]["logprob"] >= others[1]["logprob"]
        assert sum(math.exp(top["logprob"]) for top in one["top_logprobs"]) < 1
    chunks = stream(client, logprobs=True, top_logprobs=3)
    deltas = [chunk["choices"][0] for chunk in chunks]
    assert [one for delta in deltas if delta["logprobs"] for one in delta["logprobs"]["content"]] == entries
    assert answer(client)["choices"][0]["logprobs"] is None


def test_log_probabilities_are_the_models_own(client, tokenizer):
    """Neither temperature nor penalties nor biases change them."""
    whole = answer(client, logprobs=True, top_logprobs=20)["choices"][0]["logprobs"]["content"][0]
    bias = {str(token_of_text(tokenizer, whole["token"])): -100}
    request = {"logprobs": True, "logit_bias": bias, "temperature": 0.1, "seed": 1}
    banned = answer(client, **request)["choices"][0]["logprobs"]["content"][0]
    known = {one["token"]: one["logprob"] for one in whole["top_logprobs"]}
    assert banned["token"] != whole["token"]
    assert banned["logprob"] == pytest.approx(known[banned["token"]], abs=1e-9)
    assert whole["logprob"] == known[whole["token"]] == max(known.values())


def token_of_text(tokenizer, text):
    """The id of a token by its text."""
    return next(
        token
        for token in range(len(tokenizer))
        if tokenizer.token_bytes(token).decode("utf-8", "replace") == text
    )


def test_several_choices(client):
    sampled = {"temperature": 1.2, "top_p": 1.0, "top_k": -1}
    together = answer(client, n=3, seed=5, **sampled)
    alone = [answer(client, seed=5 + index, **sampled) for index in range(3)]
    assert words(together) == [words(one)[0] for one in alone] and len(set(words(together))) == 3
    assert [choice["index"] for choice in together["choices"]] == [0, 1, 2]
    assert together["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert together["usage"]["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)
    chunks = stream(client, n=3, seed=5, stream_options={"include_usage": True}, **sampled)
    assert chunks[-1]["usage"] == together["usage"]
    texts = ["", "", ""]
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == words(together)


def test_biases_and_penalties(client):
    ids = client.post("/tokenize", json={"prompt": "好", "add_special_tokens": False}).json()["tokens"]
    forced = answer(client, logit_bias={str(ids[-1]): 100})
    assert set(words(forced)[0]) == {"好"}
    # A bias that just outweighs all other logits, until the token has come as often as the penalty allows.
    capped = answer(client, logit_bias={str(ids[-1]): 20}, frequency_penalty=2)
    assert 1 < words(capped)[0].count("好") < 12
    once = answer(client, logit_bias={str(ids[-1]): 20}, presence_penalty=2, frequency_penalty=2)
    assert words(once)[0].count("好") <= words(capped)[0].count("好")
    assert "logit_bias has the key 'x'" in refusal(client, logit_bias={"x": 1})
    assert "expected ids from 0 to" in refusal(client, logit_bias={"999999": 1})
    assert "from -100 to 100" in refusal(client, logit_bias={"5": 101})
    assert "needs logprobs true" in refusal(client, top_logprobs=2)


def test_completions(client):
    ids = client.post("/tokenize", json={"prompt": "你好"}).json()["tokens"]
    by_text, by_ids = (answer(client, COMPLETIONS, prompt=prompt, max_tokens=9) for prompt in ("你好", ids))
    assert by_text["object"] == "text_completion" and by_text["id"].startswith("cmpl-")
    [choice] = by_text["choices"]
    assert choice == by_ids["choices"][0] and choice["finish_reason"] == "length"
    assert by_text["usage"] == {
        "prompt_tokens": len(ids),
        "completion_tokens": 9,
        "total_tokens": len(ids) + 9,
    }
    assert answer(client, COMPLETIONS, prompt="你好")["usage"]["completion_tokens"] == 16
    echoed = answer(client, COMPLETIONS, prompt=["你好", "a"], n=2, echo=True, max_tokens=9)
    assert [choice["index"] for choice in echoed["choices"]] == [0, 1, 2, 3]
    assert echoed["choices"][0]["text"].endswith(choice["text"])
    assert echoed["choices"][0]["text"].startswith("你好") and echoed["choices"][2]["text"].startswith("a")
    pieces = stream(client, COMPLETIONS, prompt="你好", max_tokens=9, stream_options={"include_usage": True})
    assert "".join(one["choices"][0]["text"] for one in pieces[:-1]) == choice["text"]
    assert pieces[-2]["choices"][0]["finish_reason"] == "length"
    assert pieces[-1]["usage"] == by_text["usage"]
    probable = answer(client, COMPLETIONS, prompt="你好", max_tokens=9, logprobs=2)["choices"][0]["logprobs"]
    assert len(probable["tokens"]) == len(probable["token_logprobs"]) == 9
    assert all(len(one) <= 2 and max(one.values()) <= 0 for one in probable["top_logprobs"])
    assert "echo with logprobs" in refusal(client, COMPLETIONS, prompt="a", echo=True, logprobs=1)
    assert "0 prompts" in refusal(client, COMPLETIONS, prompt=[])
    assert "does not exist" in refusal(client, COMPLETIONS, prompt=[10**6])
    assert "suffix is 'x'" in refusal(client, COMPLETIONS, prompt="a", suffix="x")


def test_tokens_and_texts(client, tokenizer):
    body = client.post("/tokenize", json={"prompt": "你好 a"}).json()
    assert body == {"count": len(body["tokens"]), "max_model_len": 512, "tokens": tokenizer.encode("你好 a")}
    chat = client.post("/tokenize", json={"messages": QUESTION["messages"]}).json()
    assert chat["count"] == answer(client)["usage"]["prompt_tokens"]
    plain = client.post("/tokenize", json={"prompt": "你好 a", "add_special_tokens": False}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": plain}).json() == {"prompt": "你好 a"}
    assert client.post("/tokenize", json={}).status_code == 400
    assert client.post("/detokenize", json={"tokens": [-1]}).status_code == 400


def test_models_embeddings_and_readiness(client):
    assert client.get("/v1/models/org/model").json()["id"] == "org/model"
    assert client.get("/v1/models/other").status_code == 404
    refused = client.post("/v1/embeddings", json={"input": "a", "model": "org/model"})
    assert refused.status_code == 400 and "has no embeddings" in refused.json()["error"]["message"]
    assert client.get("/ready").json()["status"] == "ok"


def test_request_ids(client):
    assert client.get("/health", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    ours = [client.post(CHAT, content="{").headers["X-Request-Id"] for _ in range(2)]
    assert ours[0] != ours[1]
    assert client.get("/health", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"] != "a b"


def test_metrics(client):
    def figures():
        lines = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}

    before = figures()
    usage = answer(client)["usage"]
    after = figures()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["paddle_glm_prompt_tokens_total"] == usage["prompt_tokens"]
    assert grown["paddle_glm_generation_tokens_total"] == usage["completion_tokens"]
    assert grown["paddle_glm_time_to_first_token_seconds_count"] == 1
    assert grown["paddle_glm_time_per_output_token_seconds_count"] == usage["completion_tokens"] - 1
    assert grown['paddle_glm_responses_total{status="200"}'] == 2  # /metrics too
    assert after["paddle_glm_requests_running"] == after["paddle_glm_requests_waiting"] == 0


SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 1},
        "colours": {"type": "array", "items": {"enum": ["red", "白色"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["size", "colours"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stop", [None, "]"])
def test_answers_that_follow_a_schema(client, stop):
    """Of a model that writes anything."""
    form = {"type": "json_schema", "json_schema": {"name": "shirt", "schema": SCHEMA, "strict": True}}
    sampled = {
        "n": 5,
        "seed": 3,
        "temperature": 1.5,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": 300,
        "stop": stop,
    }
    body = answer(client, response_format=form, **sampled)
    for choice in body["choices"]:
        assert choice["finish_reason"] == "stop"
        values = json.loads(choice["message"]["content"] + (stop or "")[:1] + "}" * bool(stop))
        assert set(values) == {"size", "colours"} and values["size"] >= 1
        assert 1 <= len(values["colours"]) <= 3 and set(values["colours"]) <= {"red", "白色"}
    if stop is None:
        assert len(set(words(body))) > 1
        chunks = stream(client, response_format=form, **{**sampled, "n": 1})
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == words(body)[0]


def test_any_json_object(client):
    sampled = {"seed": 1, "temperature": 1.0, "max_tokens": 400}
    [choice] = answer(client, response_format={"type": "json_object"}, **sampled)["choices"]
    assert choice["finish_reason"] == "length" or isinstance(json.loads(choice["message"]["content"]), dict)
    assert choice["message"]["content"].startswith("{")


def test_formats_that_cannot_be_followed(client):
    assert "expected json_schema" in refusal(client, response_format={"type": "json_schema"})
    broken = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "number of things"}}}
    assert "a schema that is not supported" in refusal(client, response_format=broken)
    assert "response_format.type" in refusal(client, response_format={"type": "xml"})
