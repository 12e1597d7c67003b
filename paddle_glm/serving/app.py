"""The HTTP server: OpenAI's protocol, and that of THUDM's api.py, over one scheduler."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from paddle_glm.chat import Message
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams, Reply
from paddle_glm.serving.gate import Gate
from paddle_glm.serving.live import Event, start
from paddle_glm.serving.openai_protocol import ChatRequest, Completion, error_body, explain
from paddle_glm.serving.scheduler import Busy, Closed, Job, Scheduler
from paddle_glm.serving.thudm_protocol import THUDMRequest, thudm_body

CLIENT_IS_GONE = 499  # nobody reads it; nginx's number for the log


class Answering:
    """An answer being generated, as the event loop sees it."""

    def __init__(self, job: Job, events: "asyncio.Queue[Event]") -> None:
        self.job, self.events = job, events

    @classmethod
    async def begin(
        cls,
        scheduler: Scheduler,
        messages: Sequence[Message],
        params: GenerationParams,
        stops: Sequence[str] = (),
        hide_calls: bool = False,
    ) -> "Answering":
        """Raises what `live.start` raises: all that is wrong with a request comes before the first byte."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        job = await run_in_threadpool(start, scheduler, messages, params, emit, stops, hide_calls)
        return cls(job, events)

    async def pieces(self) -> AsyncIterator[str | Reply]:
        """The text's pieces, then the reply; raises what the answer failed with."""
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Reply):
                return

    async def whole(self, request: Request) -> Reply | None:
        """The reply; None where the client leaves before it is there, which ends generation."""

        async def reply() -> Reply:
            async for event in self.pieces():
                if isinstance(event, Reply):
                    return event
            raise AssertionError("an answer ends with a reply")

        async def leaving() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        answered, left = asyncio.create_task(reply()), asyncio.create_task(leaving())
        try:
            await asyncio.wait({answered, left}, return_when=asyncio.FIRST_COMPLETED)
            return answered.result() if answered.done() else None
        finally:
            self.job.cancel()
            answered.cancel()
            left.cancel()


class LiveResponse(StreamingResponse):
    """A stream whose end, however it comes, ends generation."""

    def __init__(self, answering: Answering, content: AsyncIterator[str]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.answering = answering

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answering.job.cancel()


def create_app(
    scheduler: Scheduler,
    model_name: str,
    defaults: GenerationParams | None = None,
    api_key: str | None = None,
    most_bytes: int = 1 << 20,
) -> FastAPI:
    """The application; it closes the scheduler when it shuts down.

    defaults: of requests that say nothing; the folder's own where None. api_key: asked of all requests but
    /health. most_bytes: of a request's body.
    """
    defaults = defaults or scheduler.engine.params

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(scheduler.close)

    # FastAPI's pages would load their scripts from another company's server.
    app = FastAPI(title="paddle_glm", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, api_key=api_key, most_bytes=most_bytes)
    _answer_errors(app)

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
            return JSONResponse(error_body(text, "invalid_request_error", "model_not_found", "model"), 404)
        body.check()
        params = body.to_params(defaults)
        messages = body.to_messages(scheduler.engine.tokenizer.template)
        answering = await Answering.begin(scheduler, messages, params, body.stops(), body.may_call)
        completion = Completion(model_name, may_call=body.may_call)
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return LiveResponse(answering, _events(answering, completion, with_usage))
        reply = await answering.whole(request)
        return Response(status_code=CLIENT_IS_GONE) if reply is None else _json(completion.whole(reply))

    @app.post("/")
    async def thudm(body: THUDMRequest, request: Request) -> Response:
        messages = body.to_messages()
        answering = await Answering.begin(scheduler, messages, body.to_params(scheduler.engine.params))
        reply = await answering.whole(request)
        if reply is None:
            return Response(status_code=CLIENT_IS_GONE)
        template = scheduler.engine.tokenizer.template
        return _json(thudm_body(template, body, messages, reply))

    return app


async def _events(answering: Answering, completion: Completion, with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events; an error after the first byte is an event too, and there is no [DONE] then."""
    yield _event(completion.first())
    try:
        async for event in answering.pieces():
            if isinstance(event, Reply):
                for chunk in completion.last(event):
                    yield _event(chunk)
                if with_usage:
                    yield _event(completion.usage(event))
                yield "data: [DONE]\n\n"
            else:
                yield _event(completion.piece(event))
    except Exception as error:
        yield _event(_failure(error)[1])


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _json(value: dict[str, Any]) -> Response:
    return JSONResponse(value, media_type="application/json; charset=utf-8")


def _failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and body; what is no fault of the client's says nothing of the inside."""
    if isinstance(error, InputError):
        return 400, error_body(str(error), "invalid_request_error")
    if isinstance(error, Busy | Closed):
        return 503, error_body(str(error), "overloaded_error", "overloaded")
    return 500, error_body("the answer failed: see the server's log", "server_error")


def _answer_errors(app: FastAPI) -> None:
    """Every error has OpenAI's shape."""

    async def failed(request: Request, error: Exception) -> Response:
        status, body = _failure(error)
        return JSONResponse(body, status, {"Retry-After": "1"} if status == 503 else None)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            text = "the Content-Type is not application/json"
            return JSONResponse(error_body(text, "invalid_request_error"), 415)
        kind = THUDMRequest if request.url.path == "/" else ChatRequest
        text, param = explain(error.errors(), list(kind.model_fields))
        return JSONResponse(error_body(text, "invalid_request_error", param=param), 400)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(error_body(text, "invalid_request_error"), error.status_code, error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    for kind in (InputError, Busy, Closed, Exception):
        app.add_exception_handler(kind, failed)
