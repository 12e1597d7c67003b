"""Load on `paddle-glm serve` for minutes, by clients that leave, with a kill and a SIGTERM in between.

    python benchmarks/soak.py --minutes 10
    python benchmarks/soak.py --minutes 60 --model_path MODEL_FOLDER -- --prefix_memory 0.1

Makes a small random model unless --model_path is given. Each of the --clients asks again and again, for
streams and whole answers, in conversations of several turns; a third of them leaves in the middle. After a
third of the time the server is killed (SIGKILL) and started again; after two thirds it gets a SIGTERM while
all clients wait for answers, which it has to complete, and is started again.

Printed: requests and what became of them, tokens per second, and in the end the slots in use, cache bytes,
and resident memory, which is first looked at 15 seconds after a start.
"""

import argparse
import contextlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.serving import make_model  # noqa: E402

PATH = "/v1/chat/completions"
SETTLED = 15.0  # seconds from a start to the first look at its memory
TIMEOUT = 120.0  # of one read of an answer; more is a hang


class Server:
    """`paddle-glm serve` on a port that stays the same over restarts."""

    def __init__(self, folder: Path, flags: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "paddle_glm.main", "serve", "--model_path", str(folder)]
        self._command = [*command, "--port", str(self.port), *flags]
        self.down = threading.Event()  # requests may fail
        self.tokens = 0
        self.start()

    def start(self) -> None:
        self.log: list[str] = []
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "(Ctrl-C to stop)" in line:
                break
        else:
            raise SystemExit("the server did not start: is another one on its port?")
        threading.Thread(target=self.log.extend, args=(self.process.stdout,), daemon=True).start()
        self.started, self.settled_rss = time.monotonic(), 0.0
        self.down.clear()

    def rss(self) -> float:
        """Resident megabytes; remembers those of the moment when the server has settled."""
        size = float(psutil.Process(self.process.pid).memory_info().rss / 1e6)
        if not self.settled_rss and time.monotonic() - self.started > SETTLED:
            self.settled_rss = size
        return size

    def get(self, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def metrics(self) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in self.get("/metrics").splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}

    def stop(self, how: signal.Signals) -> int:
        """The exit status after a signal."""
        self.tokens += int(self.metrics()["paddle_glm_generation_tokens_total"])
        self.down.set()
        self.process.send_signal(how)
        return self.process.wait(timeout=TIMEOUT)

    def print_tracebacks(self) -> None:
        log = "".join(self.log)
        for found in re.findall(r"Traceback.*?\n(?=\S)[^\n]*", log, re.DOTALL):
            print(found)

    def report(self, name: str) -> None:
        """Print what the server holds once nobody asks."""
        end = time.monotonic() + TIMEOUT
        while (figures := self.metrics())["paddle_glm_requests_running"] and time.monotonic() < end:
            time.sleep(0.2)
        cache = [f"{key} {value:.0f}" for key, value in figures.items() if "cache" in key and "byte" in key]
        print(
            f"{name}: running {figures['paddle_glm_requests_running']:.0f}, waiting "
            f"{figures['paddle_glm_requests_waiting']:.0f}; {'; '.join(cache)}; resident memory "
            f"{self.settled_rss:.0f} MB after {SETTLED:.0f} s, {self.rss():.0f} MB at the end",
            flush=True,
        )


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_path", type=Path, help="a model or exported folder")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("flags", nargs="*", help="of the server, behind --")


@contextlib.contextmanager
def running_server(args: argparse.Namespace) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model_path or make_model(Path(scratch) / "model", args.layers, args.hidden)
        server = Server(folder, args.flags)
        try:
            yield server
            server.print_tracebacks()
        finally:
            server.process.kill()
            server.process.wait()


class Clients:
    """Threads that ask until they are told to stop, and what became of their requests."""

    def __init__(self, server: Server, count: int, new_tokens: int) -> None:
        self.server, self.new_tokens = server, new_tokens
        self.outcomes: Counter[str] = Counter()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng = random.Random(number)
        while not self.stopping.is_set():
            messages: list[dict[str, str]] = []
            for _ in range(rng.randint(1, 4)):
                question = "类型#裙*颜色#白色*风格#简约*" * rng.choice((1, 1, 2, 4, 16)) + str(rng.random())
                messages.append({"role": "user", "content": question})
                outcome, answer = self._ask(messages, rng)
                with self._lock:
                    self.outcomes[outcome] += 1
                while self.server.down.is_set() and not self.stopping.is_set():
                    time.sleep(0.1)
                if not answer:
                    break
                messages.append({"role": "assistant", "content": answer})

    def _ask(self, messages: list[dict[str, str]], rng: random.Random) -> tuple[str, str]:
        """What became of a request, and the answer if it is whole."""
        stream, leaves = rng.random() < 0.7, rng.random() < 0.3
        request = {"messages": messages, "stream": stream, "max_tokens": rng.randint(1, self.new_tokens)}
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            try:
                connection.request("POST", PATH, json.dumps(request), {"Content-Type": "application/json"})
                if leaves:
                    time.sleep(rng.uniform(0, 1.0))
                    return "left by the client", ""
                response = connection.getresponse()
                text = response.read().decode()
            except TimeoutError:
                return "hung", ""
            except (OSError, HTTPException):
                lost = self.server.down.is_set() or self.server.process.poll() is not None
                return "lost as the server went down" if lost else "lost", ""
        if response.status != 200:
            return f"status {response.status}", ""
        if not stream:
            return "answered", str(json.loads(text)["choices"][0]["message"]["content"])
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        if not text.endswith("data: [DONE]\n\n"):
            closing = self.server.down.is_set()
            return ("cut as the server went down" if closing else "stream without an end"), ""
        return "answered", "".join(
            chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]
        )


def wait(server: Server, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        server.rss()
        time.sleep(0.5)


def soak(server: Server, seconds: float, count: int, new_tokens: int) -> None:
    started = time.monotonic()
    clients = Clients(server, count, new_tokens)
    wait(server, seconds / 3)
    print(f"killed: {server.stop(signal.SIGKILL)}, started again", flush=True)
    server.start()
    wait(server, seconds / 3)
    print(f"resident memory before SIGTERM: {server.settled_rss:.0f} MB, then {server.rss():.0f} MB")
    status = server.stop(signal.SIGTERM)
    print(f"SIGTERM: {status}", flush=True)
    server.print_tracebacks()
    server.start()
    wait(server, seconds / 3)
    clients.stop()
    server.report("after the soak")
    server.tokens += int(server.metrics()["paddle_glm_generation_tokens_total"])
    elapsed = time.monotonic() - started
    print(f"{clients.outcomes.total()} requests in {elapsed:.0f} s, {server.tokens / elapsed:.0f} tokens/s")
    for outcome, number in clients.outcomes.most_common():
        print(f"  {outcome}: {number}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_server_arguments(parser)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=64, help="of an answer, at most")
    args = parser.parse_args()
    with running_server(args) as server:
        soak(server, 60 * args.minutes, args.clients, args.new_tokens)


if __name__ == "__main__":
    main()
