"""HTTP server: OpenAI's protocol and that of THUDM's api.py, over one scheduler."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from paddle_glm.chat_template import render
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.generation import GenerationOutput, GenerationParams
from paddle_glm.generation.session import with_special_token_ids
from paddle_glm.serving.batching.constrained import JSONConstraints
from paddle_glm.serving.batching.generation_request import QueueFullError, SchedulerClosedError
from paddle_glm.serving.batching.request_handle import CancellingStreamingResponse, RequestHandle, Submit
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.batching.streaming import AnswerOptions, submit_prompt
from paddle_glm.serving.batching.tokenizing import Tokenizing
from paddle_glm.serving.http.metrics import CONTENT_TYPE, Metrics
from paddle_glm.serving.http.middleware import (
    AuthAndBodySizeMiddleware,
    OriginMiddleware,
    RequestIdMiddleware,
)
from paddle_glm.serving.http.openapi import (
    ChatCompletion,
    Completion,
    THUDMAnswer,
    answers,
    describe,
    errors,
)
from paddle_glm.serving.http.served_models import ModelNotFoundError, ServedModels
from paddle_glm.serving.protocol.openai_errors import TOO_LONG_CODE, error_body, validation_message
from paddle_glm.serving.protocol.openai_request import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerationBody,
    TokenizeRequest,
)
from paddle_glm.serving.protocol.openai_response import (
    ChatCompletionBuilder,
    CompletionBuilder,
    ResponseBuilder,
)
from paddle_glm.serving.protocol.strict_json import StrictJSONRoute, UTF8JSONResponse, dump_json
from paddle_glm.serving.protocol.thudm_protocol import THUDMRequest, thudm_response
from paddle_glm.serving.protocol.tool_calls import begun_call_ids

CLIENT_CLOSED_REQUEST = 499  # nginx's status for its log; nobody receives it
_BODIES: dict[str, type[BaseModel]] = {
    "/": THUDMRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}


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
    api_key: required for all routes except /health and /ready. max_body_bytes: maximum size of a request
    body. allow_origins, local: as for `OriginMiddleware`; pages of these origins may read answers (CORS).
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(scheduler.close)

    # FastAPI's own documentation page loads scripts from a CDN, and asks another host to check what it shows.
    app = FastAPIOffline(
        title="paddle_glm",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"validatorUrl": None},
        responses=errors(403, 413),
    )
    app.router.route_class = StrictJSONRoute
    metrics = Metrics(scheduler)
    app.add_middleware(AuthAndBodySizeMiddleware, api_key=api_key, max_body_bytes=max_body_bytes)
    app.add_middleware(OriginMiddleware, allowed=allow_origins, local=local)
    if allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=allow_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(RequestIdMiddleware, on_response=metrics.on_response)
    _add_exception_handlers(app)
    models = ServedModels(model_name, scheduler.engine.backend.adapter_names)
    _add_status_routes(app, scheduler, models, metrics)
    tokenizing = Tokenizing(scheduler.engine.tokenizer, scheduler.engine.backend.max_length)
    _add_tokenizer_routes(app, scheduler, models, tokenizing)
    _add_generation_routes(app, scheduler, models, tokenizing, defaults or scheduler.engine.params)
    describe(app, asks_key=api_key is not None)
    return app


def _add_status_routes(app: FastAPI, scheduler: Scheduler, models: ServedModels, metrics: Metrics) -> None:
    @app.get("/health")
    @app.get("/ready")
    async def health() -> dict[str, Any]:
        # Requests are taken only after the model was opened.
        return {"status": "ok", "running": scheduler.running, "waiting": scheduler.waiting}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def figures() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def all_models() -> dict[str, Any]:
        return {"object": "list", "data": models.descriptions()}

    @app.get("/v1/models/{name:path}", responses=errors(404))
    async def one_model(name: str) -> dict[str, Any]:
        return models.description(name)

    @app.post("/v1/embeddings", include_in_schema=False)
    async def embeddings() -> Response:
        raise InputError("this model generates text and has no embeddings of texts")


def _add_tokenizer_routes(
    app: FastAPI, scheduler: Scheduler, models: ServedModels, tokenizing: Tokenizing
) -> None:
    """vLLM's /tokenize and /detokenize."""
    backend, tokenizer = scheduler.engine.backend, scheduler.engine.tokenizer

    @app.post("/tokenize", responses=errors(404))
    async def tokenize(body: TokenizeRequest) -> Response:
        models.name(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise InputError("give prompt, a text, or messages, a conversation")

        def answer() -> Response:
            if body.prompt is not None:
                ids = tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens)
            else:
                messages = [one for message in body.messages or () for one in message.to_messages()]
                ids = render(tokenizer.template, tokenizer, messages).input_ids
            values = {"count": len(ids), "max_model_len": backend.max_length, "tokens": ids}
            return UTF8JSONResponse(values)

        return await tokenizing.run(answer)

    @app.post("/detokenize", responses=errors(404))
    async def detokenize(body: DetokenizeRequest) -> Response:
        models.name(body.model)
        _check_ids(body.tokens, backend.config.vocab_size)
        return await tokenizing.run(lambda: UTF8JSONResponse({"prompt": tokenizer.decode(body.tokens)}))


def _add_generation_routes(
    app: FastAPI,
    scheduler: Scheduler,
    models: ServedModels,
    tokenizing: Tokenizing,
    defaults: GenerationParams,
) -> None:
    backend, tokenizer = scheduler.engine.backend, scheduler.engine.tokenizer
    template = tokenizer.template
    ends = with_special_token_ids(defaults, tokenizer, template).eos_token_ids
    constraints = JSONConstraints(tokenizer, backend.config.vocab_size, ends)

    async def submit(prepare: Callable[[], Sequence[Submit]]) -> RequestHandle:
        def bounded() -> Sequence[Submit]:
            submits = prepare()
            if len(submits) > scheduler.max_waiting:
                raise InputError(
                    f"{len(submits)} answers are asked for: this server queues {scheduler.max_waiting}"
                )
            return submits

        return await RequestHandle.submit(bounded, tokenizing)

    async def respond(
        body: GenerationBody, request: Request, handle: RequestHandle, builder: ResponseBuilder
    ) -> Response:
        if body.stream:
            return CancellingStreamingResponse(handle, _sse_stream(handle, builder, body.includes_usage))
        answers = await handle.wait(request)
        if answers is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return UTF8JSONResponse(builder.response(answers))

    @app.post("/v1/chat/completions", responses=answers(ChatCompletion, streamed=True) | errors(404))
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        adapter = models.adapter(body.model)
        body.check()
        schema = body.answer_schema
        constraint = None if schema is None else partial(constraints.constraint, schema)
        params, options = body.to_params(defaults), body.to_options(body.tool_calls_enabled, constraint)
        options = replace(options, adapter=adapter)

        def prepare() -> list[Submit]:
            messages = body.to_messages(template)
            tokenizing.check(message["content"] for message in messages)
            prompt = render(template, tokenizer, messages).input_ids
            begun = begun_call_ids(body.called_tool, template, tokenizer) if body.called_tool else []
            return [
                partial(submit_prompt, scheduler, prompt, one, template, options, begun=begun)
                for one in params
            ]

        builder = ChatCompletionBuilder(
            models.name(body.model), tokenizer, body.choices, tool_calls_enabled=body.tool_calls_enabled
        )
        return await respond(body, request, await submit(prepare), builder)

    @app.post("/v1/completions", responses=answers(Completion, streamed=True) | errors(404))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        adapter = models.adapter(body.model)
        body.check()
        params, options = body.to_params(defaults), replace(body.to_options(), adapter=adapter)
        echoed: list[str] = []

        def prepare() -> list[Submit]:
            tokenizing.check([body.prompt] if isinstance(body.prompt, str) else ())
            prompts = body.prompts(tokenizer)
            for prompt in prompts:
                _check_ids(prompt, backend.config.vocab_size)
            if body.echo:
                echoed.extend(map(tokenizer.decode, prompts))
            return [
                partial(submit_prompt, scheduler, prompt, one, None, options)
                for prompt in prompts
                for one in params
            ]

        builder = CompletionBuilder(models.name(body.model), tokenizer, body.choices, echoed=echoed)
        return await respond(body, request, await submit(prepare), builder)

    @app.post("/", responses=answers(THUDMAnswer))
    async def thudm(body: THUDMRequest, request: Request) -> Response:
        messages, params = body.to_messages(), body.to_params(scheduler.engine.params)

        def prepare() -> list[Submit]:
            tokenizing.check(message.get("content") for message in messages)
            prompt = render(template, tokenizer, messages).input_ids
            return [partial(submit_prompt, scheduler, prompt, params, template, AnswerOptions())]

        answers = await (await submit(prepare)).wait(request)
        if answers is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return UTF8JSONResponse(thudm_response(template, body, messages, answers[0].result))


def _check_ids(ids: Sequence[int], vocab_size: int) -> None:
    unknown = [token for token in ids if not 0 <= token < vocab_size]
    if unknown:
        raise InputError(f"the token {unknown[0]} does not exist: expected ids from 0 to {vocab_size - 1}")


async def _sse_stream(
    handle: RequestHandle, builder: ResponseBuilder, with_usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events. An error after the first byte is sent as an event, without [DONE]."""
    for chunk in builder.first_chunks(len(handle.requests)):
        yield _sse(chunk)
    outputs: dict[int, GenerationOutput] = {}
    try:
        async for index, event in handle.stream():
            if isinstance(event, GenerationOutput):
                outputs[index] = event
                for chunk in builder.final_chunks(index, event):
                    yield _sse(chunk)
            else:
                yield _sse(builder.text_chunk(index, event))
        if with_usage:
            yield _sse(builder.usage_chunk([outputs[index] for index in range(len(outputs))]))
        yield b"data: [DONE]\n\n"
    except Exception as error:
        yield _sse(_error_response(error)[1])


def _sse(value: dict[str, Any]) -> bytes:
    return f"data: {dump_json(value)}\n\n".encode("utf-8", "backslashreplace")


def _error_response(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP status and body; internal errors reveal no details."""
    if isinstance(error, InputError):
        code = TOO_LONG_CODE if isinstance(error, PromptTooLongError) else None
        return 400, error_body(str(error), "invalid_request_error", code)
    if isinstance(error, ModelNotFoundError):
        return 404, error_body(str(error), "invalid_request_error", "model_not_found", "model")
    if isinstance(error, QueueFullError):
        return 429, error_body(str(error), "requests", "rate_limit_exceeded")
    if isinstance(error, SchedulerClosedError):
        return 503, error_body(str(error), "overloaded_error", "overloaded")
    if isinstance(error, RecursionError):
        return 400, error_body("the body is nested too deeply", "invalid_request_error")
    return 500, error_body("generation failed: see the server's log", "server_error")


def _add_exception_handlers(app: FastAPI) -> None:
    """Return every error in OpenAI's format."""

    async def failed(request: Request, error: Exception) -> Response:
        status, body = _error_response(error)
        headers = None
        if isinstance(error, QueueFullError | SchedulerClosedError):
            headers = {"Retry-After": str(getattr(error, "retry_after", 1))}
        return UTF8JSONResponse(body, status, headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            text = "the Content-Type is not application/json"
            return UTF8JSONResponse(error_body(text, "invalid_request_error"), 415)
        fields = _BODIES[request.url.path].model_fields
        text, param = validation_message(error.errors(), list(fields))
        return UTF8JSONResponse(error_body(text, "invalid_request_error", param=param), 400)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path}: {error.detail}"
        return UTF8JSONResponse(error_body(text, "invalid_request_error"), error.status_code, error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    known = (InputError, ModelNotFoundError, QueueFullError, SchedulerClosedError, RecursionError)
    for kind in (*known, Exception):
        app.add_exception_handler(kind, failed)
