"""What broken and hostile clients send through a socket of their own."""

import contextlib
import json
import random
import re
import socket
import struct
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

CHAT = "/v1/chat/completions"
VALID = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2, "temperature": 0}
SECONDS = 60.0  # that an answer may take; more is a hang


def connect(address: str) -> socket.socket:
    url = urlsplit(address)
    assert url.hostname is not None
    return socket.create_connection((url.hostname, url.port), timeout=SECONDS)


def request_bytes(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def exchange(address: str, payload: bytes, half_close: bool = False) -> int | None:
    """The status of the answer, None where the server closes without one; raises `TimeoutError` on a hang."""
    with connect(address) as client:
        received = b""
        with contextlib.suppress(ConnectionError):  # refused in the middle of what is sent, or behind it
            client.sendall(payload)
        with contextlib.suppress(ConnectionError):
            if half_close:
                client.shutdown(socket.SHUT_WR)
            while piece := client.recv(1 << 16):
                received += piece
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", received)
    return int(found[1]) if found else None


def reset(client: socket.socket) -> None:
    """Close a connection as a client that crashes does, without an end of the stream."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def broken_http() -> Iterator[bytes]:
    """Requests that are no HTTP, or not all of it."""
    body = json.dumps(VALID).encode()
    post = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
    typed = post + b"Content-Type: application/json\r\n"
    yield from (b"", b"\r\n" * 1000, b"\x00" * 1000, b"GET", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n")
    yield from (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield from (b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in _odd_paths())
    yield from (b"OPTIONS * HTTP/1.1\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"A" * 100_000)
    for length in (b"-1", b"+5", b"0x10", b"9" * 40, b"1e3", b"", b"5, 6", b"1000000000000"):
        yield typed + b"Content-Length: " + length + b"\r\n\r\n" + body
    yield typed + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + body
    for size in (b"-1", b"zz", b"f" * 30, b"5;" + b"x" * 20_000, b""):
        yield typed + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello\r\n0\r\n\r\n"
    yield (
        typed
        + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n"
    )
    yield typed + b"Transfer-Encoding: gzip, nonsense\r\n\r\n" + body
    for header in (
        b"no colon",
        b": no name",
        b"a\x00b: c",
        b"X: \x00",
        b"X: \r y",
        b" folded",
        b"X" * 70_000,
    ):
        yield post + header + b"\r\n\r\n"
    yield post + b"".join(b"X-%d: y\r\n" % index for index in range(5000)) + b"\r\n"
    yield post + b"Host: localhost\r\nHost: evil\r\n\r\n"
    for extra in (
        b"Expect: 100-continue",
        b"Upgrade: websocket\r\nConnection: Upgrade",
        b"Content-Encoding: gzip",
    ):
        yield typed + extra + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    yield request_bytes(CHAT, body)[:-10]


def _odd_paths() -> Iterator[bytes]:
    yield from (
        b"/%",
        b"/%zz",
        b"/%00",
        b"//",
        b"/../../etc/passwd",
        b"/v1/models/%ff%fe",
        b"/v1/models/%ed%a0%80",
    )
    yield from (
        b"/\xff\xfe",
        b"http://[::1/",
        b"http://evil/",
        b"/" + b"a" * 60_000,
        b"/health?" + b"a&" * 9000,
    )


def hostile_bodies() -> Iterator[tuple[str, bytes]]:
    """Path and body of requests that are HTTP."""
    deep = b"[" * 100_000
    texts = (
        b"",
        b"\x00",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"{}" * 1000,
        deep,
        deep + b"]" * 100_000,
    )
    for path in (CHAT, "/", "/v1/completions", "/tokenize", "/detokenize"):
        yield from ((path, text) for text in texts)
    for value in ("NaN", "-Infinity", "1e999", "9" * 100_000, "-0.0", '"\\ud800"', '"\\u0000"', "1e-400"):
        yield CHAT, f'{{"messages": [{{"role": "user", "content": "a"}}], "top_p": {value}}}'.encode()
        yield "/", f'{{"prompt": "a", "max_length": 30, "temperature": {value}}}'.encode()
    for text in (
        "字" * 300_000,
        "a" * 1_000_000,
        " " * 1_000_000,
        "\x00" * 150_000,
        "\u200b" * 100_000,
        "e\u0301" * 300,
    ):
        for path, body in _bodies_with(text):
            yield path, json.dumps(body, ensure_ascii=False).encode()
    many = [{"role": "user", "content": "a"}] * 20_000
    changes: list[dict[str, object]] = [
        {"messages": many},
        {"logit_bias": {str(token): 100 for token in range(50_000)}},
        {"stop": ["a" * 50_000] * 16},
        {"metadata": {"a": ["b"] * 100_000}},
        {"model": "m" * 500_000},
        {"seed": 10**4000},
        {"n": 10**18},
        {"n": 128},
        {"top_k": 10**30},
    ]
    changes += [_answer_as(schema) for schema in _hostile_schemas()]
    yield from ((CHAT, json.dumps({**VALID, **change}).encode()) for change in changes)
    yield "/v1/completions", json.dumps({"prompt": [[5]] * 20_000}).encode()
    yield "/v1/completions", json.dumps({"prompt": [10**30]}).encode()
    yield "/detokenize", json.dumps({"tokens": [-1]}).encode()
    yield "/detokenize", json.dumps({"tokens": [5] * 200_000}).encode()


def _bodies_with(text: str) -> Iterator[tuple[str, dict[str, object]]]:
    yield CHAT, {**VALID, "messages": [{"role": "user", "content": text}]}
    yield "/", {"prompt": text}
    yield "/v1/completions", {"prompt": text, "max_tokens": 2}
    yield "/tokenize", {"prompt": text}


def _answer_as(schema: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def _hostile_schemas() -> Iterator[object]:
    nested: dict[str, object] = {"type": "string"}
    for _ in range(100):
        nested = {"type": "array", "items": nested}
    yield nested
    yield {"$ref": "#"}
    yield {"$ref": "https://localhost:1/schema.json"}
    yield {"type": "string", "pattern": "(a+)+" * 200}
    yield {"type": "string", "minLength": 10**9}
    yield {"type": "array", "minItems": 10**9}
    yield {"enum": ["x" * 1000 + str(index) for index in range(300)]}
    yield {"allOf": [{"type": "object", "properties": {f"p{index}": {}}} for index in range(2000)]}
    yield {"anyOf": [{"type": "integer", "multipleOf": index + 1} for index in range(500)]}


def mutated(rng: random.Random) -> tuple[bytes, bool]:
    """A valid request with some bytes changed, and whether all of it may be (else its body alone)."""
    body = bytearray(json.dumps(VALID, ensure_ascii=rng.random() < 0.5).encode())
    everywhere = rng.random() < 0.5
    target = bytearray(request_bytes(CHAT, bytes(body))) if everywhere else body
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(target))
        stop = min(len(target), start + rng.randint(1, 8))
        change = rng.randrange(4)
        if change == 0:
            target[start] ^= 1 << rng.randrange(8)
        elif change == 1:
            del target[start:stop]
        elif change == 2:
            target[start:start] = target[start:stop] * rng.choice((1, 50))
        else:
            target[start:start] = rng.randbytes(rng.choice((1, 4, 1000)))
    return (bytes(target), True) if everywhere else (request_bytes(CHAT, bytes(target)), False)


def attack(address: str, mutations: int, seed: int = 0) -> list[tuple[bytes, int]]:
    """Send everything; returns the beginnings of requests that got a status of 500 or more, and these."""
    rng = random.Random(seed)
    failed = []
    requests = [(payload, True) for payload in broken_http()]
    requests += [(request_bytes(path, body), False) for path, body in hostile_bodies()]
    requests += [mutated(rng) for _ in range(mutations)]
    for payload, half_close in requests:
        status = exchange(address, payload, half_close)
        if status is not None and status >= 500:
            failed.append((payload[:2000], status))
    return failed


@contextlib.contextmanager
def crowd(address: str, size: int) -> Iterator[None]:
    """So many connections that say nothing, half a head or body, and one that never reads its stream."""
    whole = request_bytes(CHAT, json.dumps({**VALID, "stream": True, "max_tokens": 500}).encode())
    beginnings = [b"", b"", b"", whole[:30], whole[:-20]]
    clients = []
    try:
        for index in range(size):
            clients.append(client := connect(address))
            client.sendall(beginnings[index % len(beginnings)])
        clients.append(deaf := connect(address))
        deaf.sendall(whole)
        yield
    finally:
        for client in clients:
            reset(client)


def leave_at_random(address: str, rng: random.Random, seconds: float = 0.3) -> None:
    """Ask for a long answer and leave before its end."""
    body = json.dumps({**VALID, "stream": rng.random() < 0.7, "max_tokens": 500}).encode()
    client = connect(address)
    client.sendall(request_bytes(CHAT, body))
    client.settimeout(rng.uniform(0, seconds))
    with contextlib.suppress(TimeoutError):
        while client.recv(1 << 16):
            pass
    reset(client) if rng.random() < 0.5 else client.close()


def server_errors(address: str) -> list[str]:
    """Lines of /metrics that count answers of 500 and more."""
    lines = httpx.get(address + "/metrics", timeout=SECONDS).text.splitlines()
    return [line for line in lines if re.search(r'status="5', line)]
