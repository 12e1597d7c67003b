"""Servers to talk to: the command in a process of its own, and applications in a thread of this one."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from paddle_glm.auto.engine import Engine
from paddle_glm.generation import GenerationParams
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.serving.http.address import bind, server_url
from paddle_glm.serving.http.app import create_app
from paddle_glm.serving.http.http_server import uvicorn_config
from tests.generation.numpy_model import NumpyBackend
from tests.paths import ROOT
from tests.tiny_sentencepiece import write_tiny_model

GREEDY = {"temperature": 0, "max_tokens": 12}


def start_server(folder: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """`paddle-glm serve` on a free port, and its address once it answers."""
    command = [sys.executable, "-m", "paddle_glm.main", "serve", "--model_path", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--cpu_threads", "1", *flags],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "/v1 (Ctrl-C to stop)" in line:
            return process, line.split()[1].removesuffix("/v1")
    raise AssertionError(f"the server ended with {process.wait()}")


@pytest.fixture(scope="session")
def server(tiny_checkpoint: Path) -> Iterator[str]:
    """The address of a server over the tiny model; no key."""
    process, address = start_server(tiny_checkpoint)
    yield address
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output, output


class SlowBackend(NumpyBackend):
    """Takes a while for each step; does not take rows up while others run."""

    seconds = 0.02

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        time.sleep(self.seconds)
        return super().run(inputs)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM2Tokenizer:
    return ChatGLM2Tokenizer(write_tiny_model(tmp_path_factory.mktemp("serving") / "tokenizer.model"))


@pytest.fixture(scope="session")
def slow_engine(tokenizer: ChatGLM2Tokenizer) -> Callable[[], Engine]:
    def open_engine() -> Engine:
        backend = SlowBackend(vocab=len(tokenizer), limit=2048, logit_scale=0.5)
        return Engine(backend, tokenizer, GenerationParams(do_sample=False))

    return open_engine


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, Scheduler]]]:
    """Starts a server over an engine: (address, scheduler); keywords are `create_app`'s."""
    servers = []

    def start(
        open_engine: Callable[[], Engine], max_batch_size: int = 2, max_waiting: int = 2, **options
    ) -> tuple[str, Scheduler]:
        scheduler = Scheduler(open_engine, max_batch_size, max_waiting)
        config = uvicorn_config(
            create_app(scheduler, "slow", **options), log_level="warning", timeout_graceful_shutdown=1
        )
        server, bound = uvicorn.Server(config), bind("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        servers.append((server, thread, bound))
        while not server.started:
            time.sleep(0.01)
        return server_url(bound), scheduler

    yield start
    for server, thread, bound in servers:
        server.should_exit = True
        thread.join(timeout=120)
        bound.close()
        assert not thread.is_alive()


@pytest.fixture
def serve_slow_model(serve, slow_engine: Callable[[], Engine]) -> Callable[..., tuple[str, Scheduler]]:
    """`serve` over the slow model."""
    return partial(serve, slow_engine)
