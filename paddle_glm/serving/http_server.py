"""Runs an application on a socket until it is told to stop."""

import ipaddress
import socket
from typing import Any

import uvicorn

from paddle_glm.serving.address import server_url


def serve(app: Any, bound: socket.socket, name: str, without_api_key: bool, shutdown_seconds: int) -> None:
    """Answer until SIGINT or SIGTERM; then no more requests are taken, and those that run may end.

    name: of the model; without_api_key: whether no key is asked for. Ctrl-C is how a server ends: no error.
    """
    host = bound.getsockname()[0]
    if without_api_key and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        print(f"warning: everyone who can reach {host} may use this model: --api_key asks for a key")
    bound.listen(128)  # who connects from now on is answered
    print(f"{name}: {server_url(bound)}/v1 (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(
        app, log_level="info", timeout_graceful_shutdown=shutdown_seconds, server_header=False
    )
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        bound.close()
