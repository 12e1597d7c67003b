"""`paddle-glm serve` and llama.cpp's server with one ChatGLM2 of random weights and several clients.

    python benchmarks/chat_engines.py --environments /tmp/peers --install llama_cpp
    python benchmarks/serving_peers.py --llama_server build/bin/llama-server \
        --llama_python /tmp/peers/llama_cpp/bin/python [--layers 4]

llama-server is built from llama.cpp's sources by its own instructions (GGML_NATIVE=ON). Both servers get
the same requests of OpenAI's /v1/completions: prompts of token ids and greedy, streamed answers of
--new_tokens. A server starts, answers rounds of 1, 4, ... clients, and ends before the next starts.
Clients ask again as soon as they have an answer. --max_batch_size is llama-server's --parallel. Ours is
measured with --max_batch_size 1 too: one request after the other, as the demos of the model's authors
answer.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import processor  # noqa: E402
from benchmarks.peers import dygraph  # noqa: E402
from benchmarks.peers.contract import Shape  # noqa: E402

WORDS = range(300, 500)  # ids that are words for both
END = 2  # the id that ends an answer, forbidden
FIRST_REQUEST_SECONDS = 600.0


@dataclass
class Figures:
    tokens: int = 0
    seconds: list[float] = field(default_factory=list)  # of whole answers


def ask(client: httpx.Client, prompt: Sequence[int], new_tokens: int, figures: Figures) -> None:
    """One streamed answer; its figures are added."""
    body = {
        "prompt": list(prompt),
        "max_tokens": new_tokens,
        "temperature": 0,
        "stream": True,
        "logit_bias": {str(END): -100},
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as response:
        if response.is_error:
            raise SystemExit(f"{response.status_code}: {response.read().decode()}")
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            if usage := json.loads(line[6:]).get("usage"):
                figures.tokens += usage["completion_tokens"]
    figures.seconds.append(time.perf_counter() - started)


def load(address: str, clients: int, args: argparse.Namespace) -> tuple[float, float]:
    """Tokens/s of so many clients for `args.seconds`, and the median seconds of an answer."""
    end = time.perf_counter() + args.seconds
    found = [Figures() for _ in range(clients)]

    def run(number: int) -> None:
        rng = random.Random(number)
        # llama.cpp's server ends kept connections after some requests.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=address, timeout=FIRST_REQUEST_SECONDS, limits=limits) as client:
            while time.perf_counter() < end:
                length = rng.randint(args.prompt // 2, args.prompt)
                ask(client, rng.choices(WORDS, k=length), args.new_tokens, found[number])

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
    seconds = time.perf_counter() - started
    answers = [value for one in found for value in one.seconds]
    return sum(one.tokens for one in found) / seconds, statistics.median(answers)


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[str]:
    """The address of a server, once it is ready."""
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                if httpx.get(address + "/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        else:
            raise SystemExit(f"the server ended: {' '.join(command)}")
        yield address
    finally:
        process.terminate()
        process.wait()


def write_gguf(folder: Path, args: argparse.Namespace) -> Path:
    """By the environment that has gguf and llama.cpp."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.peers import llama_cpp;"
        "from benchmarks.peers.contract import Shape;"
        "llama_cpp.write(Path(sys.argv[1]), sys.argv[2], Shape(layers=int(sys.argv[3])), with_words=True)"
    )
    command = [args.llama_python, "-c", code, str(folder), args.llama_kind, str(args.layers)]
    if not (folder / "model.gguf").exists():
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "model.gguf"


def servers(folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """(name, command) of each; their weights are written when they are asked for."""
    shape = Shape(layers=args.layers)
    if not (folder / "model").exists():
        dygraph.write(folder, args.kind, shape)
    ours = [sys.executable, "-m", "paddle_glm.main", "serve", "--model_path", str(folder / "model")]
    ours += ["--port", str(args.port), "--cpu_threads", str(args.threads)]
    yield f"paddle-glm {args.kind}", [*ours, "--max_batch_size", str(args.max_batch_size)]
    yield f"paddle-glm {args.kind}, one at a time", [*ours, "--max_batch_size", "1"]
    if args.llama_server:
        context = args.max_batch_size * 2 * (args.prompt + args.new_tokens)
        yield (
            f"llama.cpp {args.llama_kind}",
            [
                *(args.llama_server, "-m", str(write_gguf(folder, args)), "--port", str(args.port)),
                *("--parallel", str(args.max_batch_size), "--ctx-size", str(context)),
                *("--threads", str(args.threads), "--threads-batch", str(args.threads)),
            ],
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama_server", help="llama.cpp's program; without it only ours is measured")
    parser.add_argument("--llama_python", default=sys.executable, help="a Python with its package and gguf")
    parser.add_argument("--layers", type=int, default=28, help="of ChatGLM2-6B")
    parser.add_argument("--kind", default="int4-embeddings", choices=dygraph.KINDS)
    parser.add_argument("--llama_kind", default="q4_0")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--max_batch_size", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt, at most; half at least")
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each number of clients")
    parser.add_argument("--folder", help="keeps the weights for the next run")
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    print(f"{processor()}, {args.threads} threads, {args.layers} layers, answers of {args.new_tokens} tokens")
    print("| server | clients | tokens/s | an answer, s |\n|---|---|---|---|")
    with nullcontext(args.folder) if args.folder else tempfile.TemporaryDirectory() as scratch:
        Path(scratch).mkdir(exist_ok=True)
        for name, command in servers(Path(scratch), args):
            with running(command, args.port) as address:
                load(address, 1, argparse.Namespace(**{**vars(args), "seconds": 1.0}))  # warm-up
                for clients in args.clients:
                    speed, answer = load(address, clients, args)
                    print(f"| {name} | {clients} | {speed:.1f} | {answer:.2f} |", flush=True)


if __name__ == "__main__":
    main()
