"""`paddle_glm_infer --serve` in a process of its own, and what clients see of it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cpp.build import build, run

PATH = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@dataclass
class CppServer:
    process: "subprocess.Popen[str]"
    address: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=120))

    def post(self, body: Any = None, **options: Any) -> httpx.Response:
        return self.client.post(self.address + PATH, json=body, **options)

    def raw(self, body: bytes, **headers: str) -> httpx.Response:
        return self.post(content=body, headers={**JSON, **headers})

    def connect(self, body: Any) -> HTTPConnection:
        """A request whose answer is not read yet."""
        url = httpx.URL(self.address)
        connection = HTTPConnection(url.host, url.port, timeout=120)
        connection.request("POST", PATH, json.dumps(body), JSON)
        return connection

    def health(self) -> dict[str, Any]:
        return self.client.get(self.address + "/health").json()

    def is_listening(self) -> bool:
        try:
            self.client.get(self.address + "/health")
        except httpx.TransportError:
            return False
        return True

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def end(self) -> None:
        """SIGTERM; it ends in order, and nothing went wrong inside."""
        self.process.terminate()
        output, errors = self.process.communicate(timeout=120)
        assert (self.process.returncode, errors) == (0, ""), output


def start_cpp_server(
    folder: Path, *flags: object, program: Path | None = None, **variables: str
) -> CppServer:
    """The program on a free port, once it answers."""
    if run("pkg-config", "--exists", "cpp-httplib").returncode:
        pytest.skip("the program has no --serve here: apt-get install libcpp-httplib-dev")
    command = [program or build() / "paddle_glm_infer", "--model_dir", folder, "--serve", "--port", 0]
    process = subprocess.Popen(
        [str(word) for word in (*command, "--num_threads", 1, *flags)],
        env={**os.environ, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert "/v1 (Ctrl-C to stop)" in line, process.stderr.read()
    return CppServer(process, line.split()[1].removesuffix("/v1"))


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON values of a finished stream; its last event has to be [DONE]."""
    *values, last = [part.removeprefix("data: ") for part in text.strip().split("\n\n")]
    assert last == "[DONE]"
    return [json.loads(value) for value in values]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
