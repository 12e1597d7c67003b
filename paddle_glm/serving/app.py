"""HTTP server: OpenAI's protocol and that of THUDM's api.py, over one scheduler."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationOutput, GenerationParams
from paddle_glm.serving.middleware import AuthAndBodySizeMiddleware, OriginMiddleware
from paddle_glm.serving.openai_protocol import (
    ChatCompletionBuilder,
    ChatRequest,
    error_body,
    validation_message,
)
from paddle_glm.serving.scheduler import GenerationRequest, QueueFullError, Scheduler, SchedulerClosedError
from paddle_glm.serving.streaming import StreamEvent, submit_chat
from paddle_glm.serving.strict_json import StrictJSONRoute, UTF8JSONResponse, dump_json
from paddle_glm.serving.thudm_protocol import THUDMRequest, thudm_response

_TOKENIZED_AT_ONCE = 2  # long prompts do not take all processors from the model
CLIENT_CLOSED_REQUEST = 499  # nginx's status for its log; nobody receives it


class RequestHandle:
    """A running generation request, for the event loop."""

    def __init__(self, generation_request: GenerationRequest, events: "asyncio.Queue[StreamEvent]") -> None:
        self.generation_request, self.events = generation_request, events

    @classmethod
    async def submit(
        cls,
        scheduler: Scheduler,
        messages: Sequence[Message],
        params: GenerationParams,
        stop_strings: Sequence[str] = (),
        hide_tool_calls: bool = False,
    ) -> "RequestHandle":
        """Submit a conversation. Raises what `submit_chat` raises, before the first byte of a response."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[StreamEvent] = asyncio.Queue()

        def emit(event: StreamEvent) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        generation_request = await run_in_threadpool(
            submit_chat, scheduler, messages, params, emit, stop_strings, hide_tool_calls
        )
        return cls(generation_request, events)

    async def stream(self) -> AsyncIterator[str | GenerationOutput]:
        """Yield pieces of text, then the output; raises the exception that generation failed with."""
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, GenerationOutput):
                return

    async def wait(self, request: Request) -> GenerationOutput | None:
        """The output; None if the client disconnects first, which cancels generation."""

        async def reply() -> GenerationOutput:
            async for event in self.stream():
                if isinstance(event, GenerationOutput):
                    return event
            raise AssertionError("a stream ends with its GenerationOutput")

        async def client_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        completed, disconnected = asyncio.create_task(reply()), asyncio.create_task(client_disconnect())
        try:
            await asyncio.wait({completed, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            return completed.result() if completed.done() else None
        finally:
            self.generation_request.cancel()
            completed.cancel()
            disconnected.cancel()


class CancellingStreamingResponse(StreamingResponse):
    """A streaming response that cancels generation when it ends, for whatever reason."""

    def __init__(self, handle: RequestHandle, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.handle = handle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.handle.generation_request.cancel()


def create_app(
    scheduler: Scheduler,
    model_name: str,
    defaults: GenerationParams | None = None,
    api_key: str | None = None,
    max_body_bytes: int = 1 << 20,
    allow_origins: Sequence[str] = (),
    local: bool = False,
) -> FastAPI:
    """The FastAPI application; shutting it down closes the scheduler.

    defaults: sampling parameters of requests that give none; None uses those of the model folder.
    api_key: required for all routes except /health. max_body_bytes: maximum size of a request body.
    allow_origins, local: as for `OriginMiddleware`; pages of these origins may read answers (CORS).
    """
    defaults = defaults or scheduler.engine.params

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(scheduler.close)

    # FastAPI's documentation pages load scripts from a CDN.
    app = FastAPI(title="paddle_glm", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.router.route_class = StrictJSONRoute
    app.add_middleware(AuthAndBodySizeMiddleware, api_key=api_key, max_body_bytes=max_body_bytes)
    app.add_middleware(OriginMiddleware, allowed=allow_origins, local=local)
    if allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=allow_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    _add_exception_handlers(app)
    tokenizing = asyncio.Semaphore(_TOKENIZED_AT_ONCE)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running": scheduler.running, "waiting": scheduler.waiting}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": model_name, "object": "model", "created": 0, "owned_by": "paddle_glm"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        if body.model is not None and body.model != model_name:
            text = f"the model {body.model!r} does not exist here: this server has {model_name!r}"
            return UTF8JSONResponse(
                error_body(text, "invalid_request_error", "model_not_found", "model"), 404
            )
        body.check()
        params = body.to_params(defaults)
        messages = body.to_messages(scheduler.engine.tokenizer.template)
        async with tokenizing:
            handle = await RequestHandle.submit(
                scheduler, messages, params, body.stop_strings(), body.tool_calls_enabled
            )
        completion = ChatCompletionBuilder(model_name, tool_calls_enabled=body.tool_calls_enabled)
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return CancellingStreamingResponse(handle, _sse_stream(handle, completion, with_usage))
        reply = await handle.wait(request)
        if reply is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return UTF8JSONResponse(completion.response(reply))

    @app.post("/")
    async def thudm(body: THUDMRequest, request: Request) -> Response:
        messages = body.to_messages()
        params = body.to_params(scheduler.engine.params)
        async with tokenizing:
            handle = await RequestHandle.submit(scheduler, messages, params)
        reply = await handle.wait(request)
        if reply is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        template = scheduler.engine.tokenizer.template
        return UTF8JSONResponse(thudm_response(template, body, messages, reply))

    return app


async def _sse_stream(
    handle: RequestHandle, completion: ChatCompletionBuilder, with_usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events. An error after the first byte is sent as an event, without [DONE]."""
    yield _sse(completion.first_chunk())
    try:
        async for event in handle.stream():
            if isinstance(event, GenerationOutput):
                for chunk in completion.final_chunks(event):
                    yield _sse(chunk)
                if with_usage:
                    yield _sse(completion.usage_chunk(event))
                yield b"data: [DONE]\n\n"
            else:
                yield _sse(completion.text_chunk(event))
    except Exception as error:
        yield _sse(_error_response(error)[1])


def _sse(value: dict[str, Any]) -> bytes:
    return f"data: {dump_json(value)}\n\n".encode("utf-8", "backslashreplace")


def _error_response(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body; internal errors reveal no details."""
    if isinstance(error, InputError):
        return 400, error_body(str(error), "invalid_request_error")
    if isinstance(error, QueueFullError | SchedulerClosedError):
        return 503, error_body(str(error), "overloaded_error", "overloaded")
    if isinstance(error, RecursionError):
        return 400, error_body("the body is nested too deeply", "invalid_request_error")
    return 500, error_body("generation failed: see the server's log", "server_error")


def _add_exception_handlers(app: FastAPI) -> None:
    """Return every error in OpenAI's format."""

    async def failed(request: Request, error: Exception) -> Response:
        status, body = _error_response(error)
        return UTF8JSONResponse(body, status, {"Retry-After": "1"} if status == 503 else None)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            text = "the Content-Type is not application/json"
            return UTF8JSONResponse(error_body(text, "invalid_request_error"), 415)
        kind = THUDMRequest if request.url.path == "/" else ChatRequest
        text, param = validation_message(error.errors(), list(kind.model_fields))
        return UTF8JSONResponse(error_body(text, "invalid_request_error", param=param), 400)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail}"
        return UTF8JSONResponse(error_body(text, "invalid_request_error"), error.status_code, error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    for kind in (InputError, QueueFullError, SchedulerClosedError, RecursionError, Exception):
        app.add_exception_handler(kind, failed)
