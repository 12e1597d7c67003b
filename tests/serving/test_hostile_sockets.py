"""Broken HTTP, slow clients and clients that leave: no answer of 500, no hang, no slot that stays taken."""

import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from paddle_glm.auto.engine import Engine
from paddle_glm.generation import GenerationParams
from paddle_glm.serving.http.http_server import BoundedH11Protocol
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.generation.numpy_model import NumpyBackend
from tests.serving.conftest import start_server
from tests.serving.hostile_sockets import (
    CHAT,
    VALID,
    attack,
    connect,
    crowd,
    leave_at_random,
    request_bytes,
    server_errors,
)

CONFIG = Path(__file__).parent / "schemathesis.toml"


def is_idle(address):
    state = httpx.get(address + "/health", timeout=60).json()
    return state["running"] == state["waiting"] == 0


def wait_until_idle(address, seconds=60.0):
    end = time.monotonic() + seconds
    while not is_idle(address):
        assert time.monotonic() < end, httpx.get(address + "/health").text
        time.sleep(0.05)


def ask(address):
    response = httpx.post(address + CHAT, json=VALID, timeout=60)
    assert response.status_code == 200
    return response.json()["choices"][0]["message"]["content"]


@pytest.fixture
def quick_server(serve, tokenizer):
    """The address of a server whose model takes no time."""
    backend = NumpyBackend(vocab=len(tokenizer), limit=256, logit_scale=0.5)
    return serve(lambda: Engine(backend, tokenizer, GenerationParams(max_new_tokens=3)), 4, 64)[0]


def test_broken_and_hostile_requests(quick_server):
    expected = ask(quick_server)
    assert attack(quick_server, mutations=200) == []
    assert server_errors(quick_server) == []
    wait_until_idle(quick_server)
    assert ask(quick_server) == expected


def test_slow_clients_and_idle_connections(quick_server):
    expected = ask(quick_server)
    with crowd(quick_server, 200), connect(quick_server) as slow:
        for byte in request_bytes(CHAT, b'{"messages": [{"role": "user", "content": "a"}]}'):
            slow.sendall(bytes([byte]))
            time.sleep(0.001)
        assert slow.recv(12) == b"HTTP/1.1 200"
        assert ask(quick_server) == expected
    wait_until_idle(quick_server)


def test_requests_that_never_end_are_closed(quick_server, monkeypatch):
    monkeypatch.setattr(BoundedH11Protocol, "seconds", 1.0)
    whole = request_bytes(CHAT, json.dumps(VALID).encode())
    refused = b"POST / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nContent-Length: 99\r\n\r\n"
    for beginning, answer in (
        (b"", b""),
        (whole[:30], b"HTTP/1.1 408"),
        (whole[:-20], b"HTTP/1.1 408"),
        (refused, b"HTTP/1.1 403"),  # at once; its body still comes
    ):
        with connect(quick_server) as client:
            client.sendall(beginning)
            received = b""
            with suppress(ConnectionError):  # the server closes in the middle of what is sent
                client.settimeout(0.1)
                while True:
                    with suppress(TimeoutError):
                        if not (piece := client.recv(1 << 16)):
                            break
                        received += piece
                    if beginning:
                        client.sendall(b"X")  # that something comes does not help
            assert received.startswith(answer)
            assert bool(received) == bool(answer)
    assert ask(quick_server)
    wait_until_idle(quick_server)


def test_clients_that_leave(quick_server):
    rng = random.Random(0)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: leave_at_random(quick_server, rng, 0.1), range(60)))
    wait_until_idle(quick_server)
    assert ask(quick_server)


@pytest.fixture(scope="module")
def short_model(tiny_rows, tmp_path_factory):
    """As `tiny_checkpoint`, for conversations of at most 128 tokens."""
    folder = tmp_path_factory.mktemp("short") / "chatglm3"
    texts = [text for row in tiny_rows for text in row.values()]
    sizes = {"vocab_size": 512, "num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96}
    write_checkpoint(folder, texts, "chatglm3", **sizes, max_sequence_length=128)
    return folder


@contextmanager
def watched_server(folder, *flags):
    """A server's process and address; in the end it has to stop when asked, and nothing may have failed."""
    process, address = start_server(folder, "--max_new_tokens", "8", *flags)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout))  # a full pipe would stop it
    reader.start()
    try:
        yield process, address
        wait_until_idle(address)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        process.kill()
        reader.join()
    assert "Traceback" not in "".join(lines)


@pytest.mark.slow
@pytest.mark.integration
def test_schemathesis(short_model, tmp_path):
    """Generated requests, right and wrong by /openapi.json, with all of its checks."""
    with watched_server(short_model, "--api_key", "sesame") as (_, address):
        run = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        run += [address + "/openapi.json", "--header", "Authorization: Bearer sesame", "--checks", "all"]
        run += ["--max-examples", "360", "--seed", "1", "--request-timeout", "60", "--continue-on-failure"]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert int(re.findall(r"(\d+) generated", done.stdout)[-1]) >= 5000


@pytest.mark.slow
@pytest.mark.integration
def test_memory_after_attacks(tiny_checkpoint):
    sizes, rng = [], random.Random(0)
    with watched_server(tiny_checkpoint, "--prefix_memory", "0.01") as (process, address):
        for seed in range(4):
            assert attack(address, mutations=2000, seed=seed) == []
            with crowd(address, 200), ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda _: leave_at_random(address, rng), range(200)))
            wait_until_idle(address)
            sizes.append(psutil.Process(process.pid).memory_info().rss / 1e6)
        assert server_errors(address) == [] and ask(address)
    assert sizes[-1] < sizes[-2] + 20, sizes  # the first rounds fill the allocator's arenas
