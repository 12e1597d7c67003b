"""Listening sockets."""

import ipaddress
import socket

from paddle_glm.errors import InputError
from paddle_glm.system import bind_exclusive


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; raises `InputError` if the address is not available."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bind_exclusive(bound, address)
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether a bound socket is reached from this machine only."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def server_url(bound: socket.socket) -> str:
    """http://host:port of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
