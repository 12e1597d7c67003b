"""Tools in OpenAI's protocol, with a ChatGLM3 whose answers are written beforehand."""

import json

import httpx
import numpy as np
import pytest

from paddle_glm.auto.engine import Engine
from paddle_glm.chat_template import render
from paddle_glm.generation import GenerationParams
from paddle_glm.models.chatglm3.tokenizer import ChatGLM3Tokenizer
from tests.generation.numpy_model import NumpyBackend
from tests.tiny_sentencepiece import write_tiny_model

PATH = "/v1/chat/completions"
WEATHER = {
    "name": "get_weather",
    "description": "天气",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": WEATHER}]
REMARK = "\n我来查一下"
CALL = "get_weather\n```python\ntool_call(city='北京', days=3)\n```"
QUESTION = {"role": "user", "content": "天气？"}


class Scripted(NumpyBackend):
    """Gives the tokens of `script`, whatever was asked; keeps the prompt."""

    script: list[int]

    def prefill(self, input_ids, attention_mask):
        self.prompt, self.place = input_ids[0].tolist(), -1
        return super().prefill(input_ids, attention_mask)

    def run(self, inputs):
        self.place += 1
        return 99 * np.eye(self.config.vocab_size, dtype=np.float32)[[self.script[self.place]]]


@pytest.fixture(scope="module")
def chatglm3(tmp_path_factory):
    return ChatGLM3Tokenizer(write_tiny_model(tmp_path_factory.mktemp("tools") / "tokenizer.model"))


@pytest.fixture
def scripted(chatglm3, serve):
    """(address, backend, a function that sets what the model writes)."""
    backend = Scripted(vocab=len(chatglm3), limit=2048)
    address, _ = serve(lambda: Engine(backend, chatglm3, GenerationParams(do_sample=False)))

    def write(*parts: str, end: str):
        """Text, and role or end tokens by their names."""
        names = {"<|assistant|>", end}
        ids = [
            [chatglm3.get_command(part)] if part in names else chatglm3.encode(part, add_special_tokens=False)
            for part in (*parts, end)
        ]
        backend.script = [token for part in ids for token in part]

    return address, backend, write


def ask(address, *messages, **fields):
    response = httpx.post(address + PATH, json={"messages": [QUESTION, *messages], **fields})
    assert response.status_code == 200, response.text
    if not fields.get("stream"):
        return response.json()["choices"][0]
    return [json.loads(part[6:]) for part in response.text.strip().split("\n\n")[:-1]]


def test_a_call_and_its_result(scripted, chatglm3):
    address, backend, write = scripted
    write(REMARK, "<|assistant|>", CALL, end="<|observation|>")
    choice = ask(address, tools=TOOLS)
    [call] = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == REMARK.strip()
    assert call["type"] == "function" and call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "北京", "days": 3}
    prompt = chatglm3.decode(backend.prompt)
    assert "You have access to the following tools" in prompt and '"name": "get_weather"' in prompt

    write("\n晴", end="<eos>")
    result = {"role": "tool", "content": "晴", "tool_call_id": call["id"]}
    choice = ask(address, choice["message"], result, tools=TOOLS)
    assert choice["message"] == {"role": "assistant", "content": "晴"}
    assert choice["finish_reason"] == "stop"
    # The model sees its own words again: as in the conversation that `model.chat` would keep.
    template = chatglm3.template
    conversation = [
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "metadata": "", "content": REMARK.strip()},
        {"role": "assistant", "metadata": "get_weather", "content": CALL.partition("\n")[2]},
        {"role": "observation", "content": "晴"},
    ]
    expected = render(template, chatglm3, conversation).input_ids
    assert backend.prompt[-len(expected) + 2 :] == expected[2:]


def test_a_streamed_call(scripted):
    address, _, write = scripted
    write(REMARK, "<|assistant|>", CALL, end="<|observation|>")
    chunks = ask(address, tools=TOOLS, stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == REMARK.strip()
    [call] = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert call["index"] == 0
    assert json.loads(call["function"]["arguments"]) == {"city": "北京", "days": 3}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_cannot_be_read_is_text(scripted, stream):
    address, _, write = scripted
    code = "```python\nopen('file')\n```"
    write(f"get_weather\n{code}", end="<|observation|>")
    answer = ask(address, tools=TOOLS, stream=stream)
    if stream:
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in answer)
        reason = answer[-1]["choices"][0]["finish_reason"]
    else:
        text, reason = answer["message"]["content"], answer["finish_reason"]
    assert (text, reason) == (code, "stop")


def test_tools_that_may_not_be_called_are_not_declared(scripted, chatglm3):
    address, backend, write = scripted
    write("\n好", end="<eos>")
    choice = ask(address, tools=TOOLS, tool_choice="none")
    assert choice["message"]["content"] == "好"
    assert "get_weather" not in chatglm3.decode(backend.prompt)


def test_arguments_that_are_no_object(scripted):
    address, _, _ = scripted
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
    messages = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]
    refused = httpx.post(address + PATH, json={"messages": messages, "tools": TOOLS})
    assert refused.status_code == 400 and "arguments is '[1]'" in refused.text


def test_a_tool_that_has_to_be_called(scripted, chatglm3):
    """The answer is begun for the model: it writes the call's arguments only."""
    address, backend, write = scripted
    named = {"type": "function", "function": {"name": "get_weather"}}
    begun = chatglm3.encode("get_weather\n", add_special_tokens=False)
    for choice in (named, "required"):
        write(CALL.removeprefix("get_weather\n"), end="<|observation|>")
        body = httpx.post(
            address + PATH, json={"messages": [QUESTION], "tools": TOOLS, "tool_choice": choice}
        ).json()
        [call] = body["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "北京", "days": 3}
        assert backend.prompt[-len(begun) :] == begun
        assert body["usage"]["prompt_tokens"] == len(backend.prompt)
        assert body["usage"]["completion_tokens"] == len(backend.script) - 1
    write(CALL.removeprefix("get_weather\n"), end="<|observation|>")
    chunks = ask(address, tools=TOOLS, tool_choice=named, stream=True)
    assert chunks[-2]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "get_weather"
    for choice, tools, message in (
        ({"type": "function", "function": {"name": "other"}}, TOOLS, "tool_choice names 'other'"),
        ("required", TOOLS * 2, "with 2 tools"),
        ("sometimes", TOOLS, "tool_choice"),
    ):
        refused = httpx.post(
            address + PATH, json={"messages": [QUESTION], "tools": tools, "tool_choice": choice}
        )
        assert refused.status_code == 400 and message in refused.json()["error"]["message"]


def test_an_answer_of_chatglm3_that_follows_a_schema(chatglm3, serve):
    """It begins with the line that would name a tool."""
    backend = NumpyBackend(vocab=len(chatglm3), limit=512, logit_scale=0.5)
    address, _ = serve(lambda: Engine(backend, chatglm3, GenerationParams(do_sample=False)))
    schema = {"type": "array", "items": {"enum": ["晴", "rain"]}, "minItems": 2, "maxItems": 2}
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    choice = ask(address, response_format=form)
    assert choice["finish_reason"] == "stop" and set(choice["message"]) == {"role", "content"}
    assert set(json.loads(choice["message"]["content"])) <= {"晴", "rain"}
