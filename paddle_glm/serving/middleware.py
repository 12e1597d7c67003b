"""Authentication and body size limit, checked before a request is read."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from paddle_glm.serving.openai_protocol import error_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

UNAUTHENTICATED_PATHS = ("/health",)


class AuthAndBodySizeMiddleware:
    """ASGI middleware: reject requests without the API key (401) and too large bodies (413)."""

    def __init__(self, app: Any, api_key: str | None, max_body_bytes: int) -> None:
        self.app, self.max_body_bytes = app, max_body_bytes
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
            await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        messages = await self._read_body(headers.get(b"content-length", b"0"), receive)
        if messages is None:
            text = f"the body is larger than {self.max_body_bytes} bytes"
            refusal = JSONResponse(error_body(text, "invalid_request_error", "too_large"), 413)
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
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            if size > self.max_body_bytes:
                return None
        return messages
