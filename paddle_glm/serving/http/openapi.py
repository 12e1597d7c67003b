"""What /openapi.json says of answers and errors."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from paddle_glm.serving.http.middleware import UNAUTHENTICATED_PATHS
from paddle_glm.serving.protocol.tool_calls import ToolCall

Responses = dict[int | str, dict[str, Any]]

_ERRORS = {
    400: "The body is not JSON, or a field or value is refused; the message names it",
    401: "The API key is missing or wrong",
    403: "A web page of another origin, or a foreign host name",
    404: "The model does not exist",
    413: "The body is larger than the server's limit",
    415: "The Content-Type is not application/json",
    429: "The queue is full, or too slow",
    503: "The server is shutting down",
}
_ERROR_SCHEMA = {"$ref": "#/components/schemas/Error"}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds"}}


class ErrorDetails(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorDetails


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToolCall] = []


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class _Answer(BaseModel):
    id: str
    created: int
    model: str
    usage: Usage


class ChatCompletion(_Answer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Completion(_Answer):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class THUDMAnswer(BaseModel):
    response: str | dict[str, Any]
    history: list[list[str] | dict[str, Any]]
    status: Literal[200]
    time: str


def answers(model: type[BaseModel], streamed: bool = False) -> Responses:
    """`responses` of a route that generates: its answer, as a stream too, and the errors of a busy server."""
    described: Responses = {200: {"model": model}, **errors(429, 503)}
    if streamed:
        events = {"schema": {"description": "Server-sent events; the data of the last one is [DONE]"}}
        described[200]["content"] = {"text/event-stream": events}
    return described


def errors(*statuses: int) -> Responses:
    """`responses` of a route with these errors."""
    return {status: _error(status) for status in statuses}


def _error(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _ERRORS[status], "model": Error}
    return {**described, "headers": _RETRY_AFTER} if status in (429, 503) else described


def describe(app: FastAPI, asks_key: bool) -> None:
    """Have /openapi.json name the errors of our middleware and handlers too.

    asks_key: requests need an API key.
    """
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            for path, operations in schema["paths"].items():
                needs_key = asks_key and path not in UNAUTHENTICATED_PATHS
                for operation in operations.values():
                    _describe_operation(operation, needs_key)
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
            if asks_key:
                schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_operation(operation: dict[str, Any], needs_key: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's; those are answered with 400 and 415
    statuses = [400, 415] if "requestBody" in operation else []
    if needs_key:
        statuses.append(401)
        operation["security"] = [{"key": []}]
    for status in statuses:
        responses[str(status)] = {"description": _ERRORS[status]}
    for status in _ERRORS.keys() & set(map(int, responses)):
        # Also where FastAPI would take the route's own type of content, text/plain.
        responses[str(status)]["content"] = {"application/json": {"schema": _ERROR_SCHEMA}}
