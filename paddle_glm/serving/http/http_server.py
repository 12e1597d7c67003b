"""Run an ASGI application with uvicorn."""

import socket
from typing import Any

import uvicorn

from paddle_glm.serving.http.address import is_loopback, server_url


def serve(app: Any, bound: socket.socket, name: str, without_api_key: bool, shutdown_seconds: int) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests finish for up to `shutdown_seconds`.

    name: the served model; without_api_key: warn if other machines can use the server without a key.
    """
    host = bound.getsockname()[0]
    if without_api_key and not is_loopback(bound):
        print(f"warning: anyone who can reach {host} can use this model: set --api_key")
    bound.listen(128)  # clients may connect from here on
    print(f"{name}: {server_url(bound)}/v1 (Ctrl-C to stop)", flush=True)
    config = uvicorn.Config(
        app, log_level="info", timeout_graceful_shutdown=shutdown_seconds, server_header=False
    )
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        bound.close()
