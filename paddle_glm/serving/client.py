"""Client of OpenAI's protocol, for any such server (FastDeploy 2.x, vLLM, ours); needs no Paddle."""

import codecs
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.serving.protocol.openai_errors import TOO_LONG_CODE

CONNECT_TIMEOUT_SECONDS = 10.0
_MAX_SHOWN_CHARACTERS = 200  # of a server's message, in an error
# What OpenAI and this package answer to a prompt that is too long, vLLM, and paddle_glm_infer.
_TOO_LONG = (TOO_LONG_CODE, "maximum context length", "leaves no room for an answer")


class ServerError(InputError):
    """The server cannot be reached, returned an error, or does not follow the protocol.

    status: the HTTP status of an error response, else None.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServerPromptTooLongError(ServerError, PromptTooLongError):
    """The server refused a conversation as too long."""


class SSEDecoder:
    """Incremental decoder: bytes of server-sent events -> the data of each event.

    Bytes are split into lines before decoding, so a packet may end inside a character; other Unicode line
    breaks (U+2028) are text. (https://html.spec.whatwg.org, 9.2 Server-sent events)
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[str] = []

    def push(self, chunk: bytes) -> Iterator[str]:
        """Take more bytes and yield complete events. Raises UnicodeDecodeError if they are not UTF-8."""
        *lines, self._buffer = (self._buffer + chunk).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            text = codecs.decode(line.removesuffix(b"\r"), "utf-8")
            name, _, value = text.partition(":")
            if not text and self._data:
                yield "\n".join(self._data)
                self._data = []
            elif name == "data":
                self._data.append(value.removeprefix(" "))

    def finish(self) -> Iterator[str]:
        """Yield a last event that no empty line terminates, as some servers send it."""
        yield from self.push(b"\n\n")


@dataclass(frozen=True)
class RemoteOutput:
    """The final output of a remote answer."""

    messages: list[Message]
    finish_reason: str


class OpenAIClient:
    """Client of the server at `api_base`, such as http://127.0.0.1:8000/v1.

    api_key: sent as bearer token, never part of a message. timeout: seconds without data from the server.
    Raises `InputError` for an invalid address, timeout or key.
    """

    def __init__(self, api_base: str, api_key: str | None = None, timeout: float = 300.0) -> None:
        try:
            self._url = httpx.URL(api_base.rstrip("/"))
        except httpx.InvalidURL as error:
            raise InputError(f"--api_base {api_base!r} is not a URL ({error})") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise InputError(f"--api_base {api_base!r} is not a URL such as http://127.0.0.1:8000/v1")
        if timeout <= 0:
            raise InputError(f"timeout {timeout}: expected a number of seconds above 0")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InputError("the API key contains characters that are invalid in an HTTP header")
        self._key, self._timeout = api_key, timeout
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_SECONDS),
            trust_env=not _is_loopback(self._url.host),  # a proxy cannot reach this machine's own addresses
        )
        self.address = str(self._url.copy_with(userinfo=b""))

    def close(self) -> None:
        self._http.close()

    def models(self) -> dict[str, str | None]:
        """Names of the server's models -> the model that an adapter belongs to, or None.

        Raises `ServerError`.
        """
        with self._translate_errors():
            response = self._http.get(f"{self._url}/models")
            self._raise_for_status(response)
            try:
                return {str(model["id"]): _parent(model) for model in response.json()["data"]}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ServerError(
                    f"{self.address}/models gave no list of models: {_excerpt(response)}"
                ) from error

    def stream_chat(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks that answer `request`, until [DONE]. Raises `ServerError`."""
        body = json.dumps({**request, "stream": True}, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        with (
            self._translate_errors(),
            self._http.stream(
                "POST", f"{self._url}/chat/completions", content=body, headers=headers
            ) as response,
        ):
            if not response.is_success:
                response.read()
            self._raise_for_status(response)
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise ServerError(
                    f"{self.address} gave {kind or 'something'!r} in the place of a stream of events"
                )
            for data in _sse_data(response.iter_bytes()):
                if data == "[DONE]":
                    return
                yield self._chunk(data)

    def _chunk(self, data: str) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise ServerError(
                f"{self.address} sent an event that is not JSON: {data[:_MAX_SHOWN_CHARACTERS]!r}"
            ) from error
        if not isinstance(chunk, dict):
            raise ServerError(
                f"{self.address} sent an event that is no object: {data[:_MAX_SHOWN_CHARACTERS]!r}"
            )
        if "error" in chunk:
            raise ServerError(f"{self.address} ended the answer: {self._error_message(chunk)}")
        return chunk

    def _raise_for_status(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        try:
            detail = self._error_message(response.json())
        except ValueError:
            detail = _excerpt(response)
        status = response.status_code
        hint = ""
        if status in (401, 403):
            hint = " (give --api_key, or set OPENAI_API_KEY)" if self._key is None else " (is the key right?)"
        elif status == 404 and not self._url.path.rstrip("/").endswith("/v1"):
            hint = " (most servers' addresses end in /v1)"
        elif response.is_redirect:
            hint = f" (it points to {response.headers.get('location', 'nowhere')}: give that as --api_base)"
        text = f"{self.address} answered {status} {response.reason_phrase}: {detail}{hint}"
        too_long = status == 400 and any(sign in response.text for sign in _TOO_LONG)
        raise (ServerPromptTooLongError if too_long else ServerError)(text, status)

    def _error_message(self, body: Any) -> str:
        """The message in an error body, with the API key masked."""
        error = body.get("error", body) if isinstance(body, dict) else body
        text = error.get("message", error) if isinstance(error, dict) else error
        line = " ".join(str(text).split())
        return (line.replace(self._key, "***") if self._key else line)[:_MAX_SHOWN_CHARACTERS]

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn httpx's exceptions into `ServerError` with a one-line message."""
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise ServerError(
                f"{self.address} cannot be reached within {CONNECT_TIMEOUT_SECONDS:g} s"
            ) from error
        except httpx.TimeoutException as error:
            raise ServerError(f"{self.address} was silent for {self._timeout:g} s (--timeout)") from error
        except httpx.ConnectError as error:
            raise ServerError(
                f"{self.address} cannot be reached ({error}): is the server running?"
            ) from error
        except UnicodeDecodeError as error:
            raise ServerError(f"{self.address} sent bytes that are not UTF-8 ({error.reason})") from error
        except httpx.HTTPError as error:
            raise ServerError(f"{self.address} broke off ({error or type(error).__name__})") from error


class RemoteSession:
    """A `paddle_glm.generation.Session` with a server's model.

    fields: further fields of each request, such as those of `request_fields`. models: those that the server
    has, `model` first; None: only that one is known.
    """

    def __init__(
        self,
        client: OpenAIClient,
        model: str,
        fields: Mapping[str, Any] | None = None,
        models: Sequence[str] | None = None,
    ) -> None:
        self.client, self.model, self.fields = client, model, dict(fields or {})
        self.models = tuple(models or (model,))
        self.reply: RemoteOutput | None = None

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """See `Session.stream`. Raises `ServerError`."""
        self.reply = None
        sent = [{"role": message["role"], "content": message["content"]} for message in messages]
        text, reason = "", None
        for chunk in self.client.stream_chat({**self.fields, "model": self.model, "messages": sent}):
            piece, ended = _delta(chunk)
            reason = ended or reason
            if piece:
                text += piece
                yield piece
        if reason is None:
            raise ServerError(f"{self.client.address} broke off before the answer was complete")
        self.reply = RemoteOutput([{"role": "assistant", "content": text}], reason)


def choose_models(client: OpenAIClient, name: str | None) -> tuple[str, ...]:
    """The server's models: first `name`, or if that is None the only one that is no adapter of another.

    Raises `ServerError` if the server cannot be reached or has no such model.
    """
    try:
        known = client.models()
    except ServerError as error:
        if error.status not in (404, 405):
            raise
        if name is None:
            raise ServerError(f"{error} (a server without a list of models: give --model)") from error
        return (name,)
    bases = [model for model, parent in known.items() if parent not in known]
    if name is None and len(bases) == 1:
        name = bases[0]
    if name is None or name not in known:
        asked = "say which with --model" if name is None else f"the model {name!r} is not among them"
        raise ServerError(f"{client.address} has the models {', '.join(known) or 'none'}: {asked}")
    return (name, *(model for model in known if model != name))


# Fields of GenerationParams -> names in the protocol; then extensions that most servers have.
_OPENAI_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_new_tokens": "max_tokens",
    "seed": "seed",
}
_EXTENSIONS = ("top_k", "repetition_penalty")


def request_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Explicitly given generation parameters -> request fields; the server's defaults apply to the rest.

    `do_sample=False` becomes temperature 0. Raises `InputError` for parameters that the protocol lacks.
    """
    for name, neutral in (("num_beams", 1), ("length_penalty", 1.0), ("early_stopping", False)):
        if given.get(name, neutral) != neutral:
            raise InputError(f"--{name} {given[name]}: the OpenAI protocol has no beam search; leave it out")
    if "max_length" in given:
        raise InputError(
            f"--max_length {given['max_length']}: the OpenAI protocol limits the answer alone; give "
            "--max_new_tokens"
        )
    fields = {field: given[name] for name, field in _OPENAI_FIELDS.items() if given.get(name) is not None}
    fields |= {name: given[name] for name in _EXTENSIONS if name in given}
    if given.get("do_sample") is False:
        fields["temperature"] = 0
    return fields


def _parent(model: Mapping[str, Any]) -> str | None:
    parent = model.get("parent")
    return parent if isinstance(parent, str) else None


def _delta(chunk: Mapping[str, Any]) -> tuple[str, str | None]:
    """The text that a chunk adds, and the finish reason or None."""
    try:
        choices = chunk["choices"]
        if not choices:  # the usage chunk
            return "", None
        piece, reason = choices[0]["delta"].get("content"), choices[0].get("finish_reason")
        if isinstance(piece, str | None) and isinstance(reason, str | None):
            return piece or "", reason
    except (KeyError, IndexError, TypeError, AttributeError):
        pass  # raised below
    raise ServerError(f"unexpected chunk in the stream: {json.dumps(chunk)[:_MAX_SHOWN_CHARACTERS]}")


def _sse_data(chunks: Iterable[bytes]) -> Iterator[str]:
    stream = SSEDecoder()
    for chunk in chunks:
        yield from stream.push(chunk)
    yield from stream.finish()


def _excerpt(response: httpx.Response) -> str:
    return " ".join(response.text.split())[:_MAX_SHOWN_CHARACTERS] or "nothing"


def _is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
