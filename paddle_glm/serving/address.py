"""Where a server listens."""

import socket

from paddle_glm.errors import InputError
from paddle_glm.system import bind_exclusive


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, not listening yet; raises `InputError` where it cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bind_exclusive(bound, address)
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def server_url(bound: socket.socket) -> str:
    """http://host:port, for people."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
