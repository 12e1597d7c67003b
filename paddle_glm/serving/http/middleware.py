"""Origin, authentication and body size limit, checked before a request is read."""

import asyncio
import hmac
import ipaddress
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from paddle_glm.serving.http.body_pace import BodyPace
from paddle_glm.serving.protocol.openai_errors import error_body
from paddle_glm.serving.protocol.strict_json import UTF8JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)

UNAUTHENTICATED_PATHS = ("/health", "/ready")


_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")  # of clients; others get one of ours


class RequestIdMiddleware:
    """ASGI middleware: answers carry the request's `X-Request-Id`, or a new one; errors are logged with it.

    on_response: called with the status of every answer.
    """

    def __init__(self, app: Any, on_response: Callable[[int], None]) -> None:
        self.app, self.on_response = app, on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()

        started = False

        async def send_with_id(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
                self.on_response(message["status"])
                log.info(
                    "%s %s: %d, request %s",
                    scope["method"],
                    scope["path"],
                    message["status"],
                    request_id.decode(),
                )
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # by uvicorn, when the time for answers at shutdown is over
            if not started:
                text = "the server is shutting down"
                body = error_body(text, "overloaded_error", "overloaded")
                await UTF8JSONResponse(body, 503, {"Retry-After": "1"})(scope, receive, send_with_id)


class ContentSecurityMiddleware:
    """ASGI middleware for a page that loads nothing from other hosts, whatever an answer contains."""

    _POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'"

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", self._POLICY)
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


class OriginMiddleware:
    """ASGI middleware: reject what a page of another origin sends from the user's browser (403), by
    websocket too.

    allowed: origins as browsers send them, "http://localhost:3000"; "*" allows all. local: the server listens
    on this machine only: another name in the URL was made to resolve to it (DNS rebinding).
    """

    def __init__(self, app: Any, allowed: Sequence[str], local: bool) -> None:
        self.app, self.allowed, self.local = app, frozenset(allowed), local
        self.allowed_hosts = {urlsplit(origin).hostname for origin in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None if scope["type"] == "lifespan" else self._refused(dict(scope["headers"]))
        if refused is None:
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: a 403
            return
        text = f"{refused} is not served: start the server with --allow_origin ORIGIN"
        body = error_body(text, "invalid_request_error", "origin_not_allowed")
        await UTF8JSONResponse(body, 403)(scope, receive, send)

    def _refused(self, headers: Mapping[bytes, bytes]) -> str | None:
        """What is wrong with the headers."""
        if "*" in self.allowed:
            return None
        host, origin = (headers.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        name = _host_name(host)
        if self.local and not _is_this_machine(name) and name not in self.allowed_hosts:
            return f"the host {host!r}"
        if origin and origin not in self.allowed and origin.partition("://")[2] != host:
            return f"the origin {origin!r}"
        return None


def _host_name(host: str) -> str | None:
    """The name or address in a Host header."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_this_machine(name: str | None) -> bool:
    if name is None or name == "localhost" or name.endswith(".localhost"):
        return True  # HTTP/1.0 has no Host; browsers always send one
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class AuthAndBodySizeMiddleware:
    """ASGI middleware: reject requests without the API key (401) and too large bodies (413)."""

    def __init__(self, app: Any, api_key: str | None, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes
        self._pace = BodyPace()
        self._key = api_key.encode() if api_key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] not in UNAUTHENTICATED_PATHS and not self._is_authorized(
            headers.get(b"authorization", b"")
        ):
            body = error_body("the API key is missing or wrong", "authentication_error", "invalid_api_key")
            await UTF8JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        messages = await self._read_body(headers.get(b"content-length", b"0"), receive)
        if messages is None:
            text = f"the body is larger than {self.max_body_bytes} bytes"
            refusal = UTF8JSONResponse(error_body(text, "invalid_request_error", "too_large"), 413)
            await refusal(scope, receive, send)
            return
        buffered = iter(messages)

        async def replay() -> MutableMapping[str, Any]:
            return next(buffered, None) or await receive()

        await self.app(scope, replay, send)

    def _is_authorized(self, authorization: bytes) -> bool:
        if self._key is None:
            return True
        scheme, _, given = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)

    async def _read_body(
        self, content_length: bytes, receive: Receive
    ) -> list[MutableMapping[str, Any]] | None:
        """The ASGI messages of the body; None as soon as it exceeds the limit, without buffering it."""
        if content_length.isdigit() and int(content_length) > self.max_body_bytes:
            return None
        messages, size, more = [], 0, True
        while more:
            message = await receive()
            messages.append(message)
            new = len(message.get("body", b""))
            size += new
            more = message.get("more_body", False)
            if size > self.max_body_bytes:
                return None
            await self._pace.wait(new, size)
        return messages
