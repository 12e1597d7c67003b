"""Runs an application on a socket until it is told to stop."""

import ipaddress
import socket
from typing import Any

import uvicorn

from paddle_glm.errors import InputError


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, not listening yet; raises `InputError` where it cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """http://host:port, for people."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(app: Any, bound: socket.socket, name: str, open_to_all: bool, shutdown_seconds: int) -> None:
    """Answer until SIGINT or SIGTERM; then no more requests are taken, and those that run may end.

    name: of the model; open_to_all: whether no key is asked for. Ctrl-C is how a server ends: no error.
    """
    host = bound.getsockname()[0]
    if open_to_all and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        print(f"warning: everyone who can reach {host} may use this model: --api_key asks for a key")
    bound.listen(128)  # who connects from now on is answered
    print(f"{name}: {address_of(bound)}/v1 (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(
        app, log_level="info", timeout_graceful_shutdown=shutdown_seconds, server_header=False
    )
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        bound.close()
