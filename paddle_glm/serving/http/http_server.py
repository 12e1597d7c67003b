"""Run an ASGI application with uvicorn."""

import asyncio
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from paddle_glm.serving.http.address import is_loopback, server_url

REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class BoundedH11Protocol(H11Protocol):
    """uvicorn's HTTP, which also closes connections whose next request is not there in time, head and body.

    uvicorn itself limits only the time between two requests.
    """

    seconds = 60.0
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._unwatch()
        elif self._limit is None:
            self._limit = self.loop.call_later(self.seconds, self._close_unless_complete)

    def _unwatch(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _close_unless_complete(self) -> None:
        self._limit = None
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            return
        if self.flow.read_paused:  # it is the server that takes its time
            self._watch()
            return
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        if begun and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(REQUEST_TIMEOUT)
        self.transport.close()


def uvicorn_config(app: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(app, http=BoundedH11Protocol, server_header=False, **options)


def serve(app: Any, bound: socket.socket, name: str, without_api_key: bool, shutdown_seconds: int) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests finish for up to `shutdown_seconds`.

    name: the served model; without_api_key: warn if other machines can use the server without a key.
    """
    host = bound.getsockname()[0]
    if without_api_key and not is_loopback(bound):
        print(f"warning: anyone who can reach {host} can use this model: set --api_key")
    bound.listen(128)  # clients may connect from here on
    print(f"{name}: {server_url(bound)}/v1 (Ctrl-C to stop)", flush=True)
    config = uvicorn_config(app, log_level="info", timeout_graceful_shutdown=shutdown_seconds)
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        bound.close()
