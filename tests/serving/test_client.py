"""The client against servers that answer in pieces, wrongly, late or not at all."""

import gzip
import json

import pytest

from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.generation import GenerationParams
from paddle_glm.serving.client import (
    OpenAIClient,
    RemoteSession,
    ServerError,
    SSEDecoder,
    choose_models,
    request_fields,
)
from paddle_glm.serving.pages.chat_provider import remote_provider
from tests.serving.scripted_server import scripted_server

MESSAGES = [{"role": "user", "content": "你好", "metadata": ""}]
# A line separator of Unicode, a character of four bytes, and a full-width sign.
TEXT = "宽松\u2028阔腿裤👖，\n好"


def chunk(text=None, reason=None):
    delta = {} if text is None else {"content": text}
    value = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


WHOLE = b": comment\n\n" + b"".join(map(chunk, TEXT)) + chunk(reason="stop") + b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def scripted():
    with scripted_server() as pair:
        yield pair


@pytest.fixture
def remote(scripted):
    address, script = scripted
    script.__init__()
    client = OpenAIClient(address, "sk-secret", timeout=30)
    yield RemoteSession(client, "glm"), script
    client.close()


def data_of(pieces):
    stream = SSEDecoder()
    return [data for piece in pieces for data in stream.push(piece)] + list(stream.finish())


@pytest.mark.parametrize("line_break", [b"\n", b"\r\n"])
def test_bytes_may_be_split_anywhere(line_break):
    events = WHOLE.replace(b"\n", line_break)
    expected = data_of([events])
    assert len(expected) == len(TEXT) + 2
    for place in range(len(events)):
        assert data_of([events[:place], events[place:]]) == expected
    assert data_of([events[i : i + 1] for i in range(len(events))]) == expected


def test_events_of_several_lines_and_without_an_end():
    assert data_of([b"event: x\ndata: a\ndata:b\nid: 3\n\ndata: c"]) == ["a\nb", "c"]
    assert data_of([b"\n\n\n"]) == []


def test_a_stream_in_pieces_on_the_wire(remote):
    session, script = remote
    script.chunks = [WHOLE[i : i + 7] for i in range(0, len(WHOLE), 7)]
    script.pause = 0.001
    assert "".join(session.stream(MESSAGES)) == TEXT
    assert session.reply.messages == [{"role": "assistant", "content": TEXT}]
    assert session.reply.finish_reason == "stop"
    [(path, headers, body)] = script.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert json.loads(body) == {
        "model": "glm",
        "stream": True,
        "messages": [{"role": "user", "content": "你好"}],
    }


def test_a_compressed_stream(remote):
    session, script = remote
    script.headers["Content-Encoding"] = "gzip"
    script.chunks = [gzip.compress(WHOLE)]
    assert "".join(session.stream(MESSAGES)) == TEXT


def test_an_answer_without_done_is_whole_when_its_reason_was_given(remote):
    session, script = remote
    script.chunks = [chunk("a"), chunk(reason="length"), b'data: {"choices": [], "usage": {}}\n\n']
    assert list(session.stream(MESSAGES)) == ["a"]
    assert session.reply.finish_reason == "length"


@pytest.mark.parametrize(
    ("pieces", "message"),
    [([b"data: {oops\n\n"], "an event that is not JSON: '{oops'"), ([b"data: [1]\n\n"], "that is no object"),
     ([chunk("a"), b'data: {"choices": [{"text": "b"}]}\n\n'], "unexpected chunk"),
     ([b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'], "unexpected chunk"),
     ([chunk("a")], "before the answer was complete"), ([], "before the answer was complete"),
     ([b"data: \xff\xfe\n\n"], "not UTF-8"),
     ([chunk("a"), b'data: {"error": {"message": "out of memory"}}\n\n'], "ended the answer: out of memory")],
)  # fmt: skip
def test_malformed_streams(remote, pieces, message):
    session, script = remote
    script.chunks = pieces
    with pytest.raises(ServerError, match=message.replace("[", r"\[").replace("{", r"\{")) as error:
        list(session.stream(MESSAGES))
    assert session.reply is None
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [(401, b'{"error": {"message": "no such key sk-secret"}}', r"401 Unauthorized: no such key \*\*\* "),
     (404, b'{"error": {"message": "the model glm does not exist"}}', "the model glm does not exist$"),
     (404, b"Not Found", "Not Found$"),
     (500, b'{"detail": "boom"}', "500 Internal Server Error: .*boom"), (503, b"", "503 .*: nothing"),
     (307, b"", "it points to http://elsewhere")],
)  # fmt: skip
def test_refusals(remote, status, body, message):
    session, script = remote
    script.status, script.chunks = status, [body]
    script.headers = {"Content-Type": "application/json", "Location": "http://elsewhere"}
    with pytest.raises(ServerError, match=message) as error:
        list(session.stream(MESSAGES))
    assert error.value.status == status
    assert "sk-secret" not in str(error.value)
    assert len(script.requests) == 1  # a redirect would take the key along


@pytest.mark.parametrize(
    "text", ['code": "context_length_exceeded', "the maximum context length is 9 tokens"]
)
def test_a_conversation_that_is_too_long(remote, text):
    session, script = remote
    script.status, script.chunks = 400, [f'{{"error": {{"message": "{text}"}}}}'.encode()]
    script.headers = {"Content-Type": "application/json"}
    with pytest.raises(PromptTooLongError) as error:
        list(session.stream(MESSAGES))
    assert isinstance(error.value, ServerError)


def test_what_is_no_stream(remote):
    session, script = remote
    script.headers, script.chunks = {"Content-Type": "text/html"}, [b"<html>"]
    with pytest.raises(ServerError, match="'text/html' in the place of a stream"):
        list(session.stream(MESSAGES))


def test_a_server_that_falls_silent(scripted):
    address, script = scripted
    script.__init__()
    script.chunks, script.pause = [chunk("a"), chunk("b")], 2
    session = RemoteSession(OpenAIClient(address, timeout=0.5), "glm")
    pieces = session.stream(MESSAGES)
    assert next(pieces) == "a"
    with pytest.raises(ServerError, match=r"silent for 0\.5 s"):
        next(pieces)


def test_a_proxy_is_not_asked_for_this_machine(remote, monkeypatch):
    session, script = remote
    script.chunks = [b'{"data": []}']
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert OpenAIClient(session.client.address).models() == {}
    with pytest.raises(ServerError, match="cannot be reached"):
        OpenAIClient("http://example.invalid/v1").models()


def test_a_server_that_is_not_there():
    client = OpenAIClient("http://127.0.0.1:9/v1")
    with pytest.raises(
        ServerError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached .*is the server running"
    ):
        client.models()


def test_the_model_is_the_only_one_or_the_one_named(remote):
    session, script = remote
    client = session.client
    script.chunks = [b'{"data": [{"id": "a"}]}']
    assert choose_models(client, None) == choose_models(client, "a") == ("a",)
    with pytest.raises(ServerError, match="has the models a: the model 'b' is not among them"):
        choose_models(client, "b")
    script.chunks = [b'{"data": [{"id": "a"}, {"id": "b"}]}']
    assert choose_models(client, "b") == ("b", "a")
    with pytest.raises(ServerError, match="models a, b: say which with --model"):
        choose_models(client, None)
    script.chunks = [b'{"data": [{"id": "ads", "parent": "a"}, {"id": "a", "parent": null}]}']
    assert choose_models(client, None) == ("a", "ads")
    assert choose_models(client, "ads") == ("ads", "a")
    script.chunks = [b'{"object": "list"}']
    with pytest.raises(ServerError, match="no list of models"):
        choose_models(client, "a")
    script.status = 404
    assert choose_models(client, "x") == ("x",)  # a server without a list
    with pytest.raises(ServerError, match=r"404 .*give --model"):
        choose_models(client, None)


def test_a_page_chooses_among_the_servers_models(remote):
    session, script = remote
    script.chunks = [b'{"data": [{"id": "glm"}, {"id": "ads", "parent": "glm"}]}']
    models = choose_models(session.client, None)
    provider = remote_provider(RemoteSession(session.client, models[0], {}, models), GenerationParams())
    assert provider.models == ("glm", "ads") and provider.title == "glm"
    values = {"temperature": 0, "top_p": 0.8, "max_new_tokens": 4}
    assert [provider.open(values, name).model for name in provider.models] == ["glm", "ads"]
    with pytest.raises(InputError, match="model 'odd' does not exist: expected one of glm, ads"):
        provider.open(values, "odd")


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1:8000", "ftp://host/v1", "http://", "http://a:b/v1", "/v1"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(InputError, match="api_base"):
        OpenAIClient(address)


def test_odd_keys_and_passwords_are_not_shown():
    with pytest.raises(InputError) as error:
        OpenAIClient("http://host/v1", "sk-schlüssel")
    assert "schl" not in str(error.value)
    assert "secret" not in OpenAIClient("http://me:secret@host/v1").address


def test_parameters_become_fields():
    given = {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7, "seed": 3, "do_sample": True, "top_k": 4}
    fields = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "top_k": 4}
    assert request_fields(given) == fields
    assert request_fields({}) == {}
    assert request_fields({"do_sample": False}) == {"temperature": 0}
    for name, value in (
        ("num_beams", 2),
        ("max_length", 9),
        ("early_stopping", True),
        ("length_penalty", 2.0),
    ):
        with pytest.raises(InputError, match=f"--{name} {value}"):
            request_fields({name: value})
