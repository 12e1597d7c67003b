"""The client packages that people use, with their defaults, against a server of this package."""

import asyncio
import json

import pytest

from paddle_glm.auto.engine import Engine
from paddle_glm.generation import GenerationParams
from tests.generation.numpy_model import NumpyBackend

QUESTION = [{"role": "user", "content": "你好 a"}]


@pytest.fixture
def address(serve, tokenizer):
    """A server with an API key; the model is called "slow"."""
    backend = NumpyBackend(vocab=len(tokenizer), limit=2048, logit_scale=0.5)
    params = GenerationParams(do_sample=False, max_new_tokens=20)
    url, _ = serve(lambda: Engine(backend, tokenizer, params), max_waiting=16, api_key="secret")
    return url + "/v1"


def test_openai(address):
    import openai

    with openai.OpenAI(base_url=address, api_key="secret") as client:
        assert [model.id for model in client.models.list()] == ["slow"]
        whole = client.chat.completions.create(model="slow", messages=QUESTION, logprobs=True, n=2)
        text = whole.choices[0].message.content
        assert text and text == whole.choices[1].message.content
        assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens / 2
        stream = client.chat.completions.create(model="slow", messages=QUESTION, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
        completion = client.completions.create(model="slow", prompt="你好", max_tokens=5, stream=True)
        assert "".join(chunk.choices[0].text for chunk in completion if chunk.choices)
        with pytest.raises(openai.BadRequestError, match="temperature is -1"):
            client.chat.completions.create(model="slow", messages=QUESTION, temperature=-1)
        with pytest.raises(openai.NotFoundError, match="'gpt-4' does not exist"):
            client.chat.completions.create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=address, api_key="wrong").models.list()


def test_openai_parses_an_answer_into_a_class(address):
    import openai
    from pydantic import BaseModel, conlist

    class Shirt(BaseModel):
        size: bool
        colours: conlist(bool, min_length=1, max_length=3)

    with openai.OpenAI(base_url=address, api_key="secret") as client:
        parsed = client.chat.completions.parse(
            model="slow", messages=QUESTION, response_format=Shirt, max_tokens=200
        )
        assert isinstance(parsed.choices[0].message.parsed, Shirt)


def test_openai_without_blocking(address):
    import openai

    async def ask():
        async with openai.AsyncOpenAI(base_url=address, api_key="secret") as client:
            requests = [client.chat.completions.create(model="slow", messages=QUESTION) for _ in range(5)]
            return [one.choices[0].message.content for one in await asyncio.gather(*requests)]

    assert len(set(asyncio.run(ask()))) == 1


def test_langchain(address):
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=address, api_key="secret", model="slow")
    whole = model.invoke([("system", "a"), ("human", "你好 a")])
    assert whole.content and whole.usage_metadata["output_tokens"] == 20
    assert (
        "".join(piece.content for piece in model.stream([("system", "a"), ("human", "你好 a")]))
        == whole.content
    )
    assert len(model.batch(["a", "b", "c"])) == 3
    schema = {
        "title": "shirt",
        "type": "object",
        "properties": {"size": {"type": "boolean"}},
        "required": ["size"],
    }
    found = model.with_structured_output({**schema, "additionalProperties": False}, method="json_schema")
    assert set(found.invoke("a")) == {"size"}


def test_llama_index(address):
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(model="slow", api_base=address, api_key="secret", temperature=0, is_chat_model=True)
    whole = model.chat([ChatMessage(role="user", content="你好 a")]).message.content
    *_, last = model.stream_chat([ChatMessage(role="user", content="你好 a")])
    assert whole and last.message.content == whole
    model = OpenAILike(model="slow", api_base=address, api_key="secret", temperature=0, is_chat_model=False)
    assert model.complete("你好").text


def test_open_webui(address):
    """The calls of its backend: the list of models, then a stream with options of its own."""
    import httpx

    headers = {"Authorization": "Bearer secret"}
    assert httpx.get(address + "/models", headers=headers).json()["data"][0]["id"] == "slow"
    body = {
        "stream": True,
        "model": "slow",
        "messages": QUESTION,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
    }
    response = httpx.post(address + "/chat/completions", json=body, headers=headers)
    *events, last = response.text.strip().split("\n\n")
    assert last == "data: [DONE]" and json.loads(events[-1][6:])["usage"]["completion_tokens"] == 5
