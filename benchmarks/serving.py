"""Throughput and latency of `paddle-glm serve` with one and several clients.

    python benchmarks/serving.py [--model_path FOLDER] [--layers 8 --hidden 512] [--clients 1 4 8 16]

For each number of clients: tokens per second of all together, and how long the first piece of text and a
whole answer took (medians). A client asks again as soon as it has its answer. Prompts differ in length;
answers are greedy and are cut at --new_tokens. Without a folder a model of random weights is made. Then the
first text of a conversation's first and second turn, and the time between pieces of text of an answer while
another client's long prompt is read (--long_prompt, in characters).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from paddle_glm.serving.client import OpenAIClient
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import make_rows


def make_model(folder: Path, layers: int, hidden: int) -> Path:
    texts = [text for row in make_rows(300) for text in row.values()]
    heads = max(hidden // 64, 2)
    write_checkpoint(
        folder,
        texts,
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        ffn_hidden_size=3 * hidden,
    )
    return folder


def start_server(folder: Path, batch: int, threads: int) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "paddle_glm.main", "serve", "--model_path", str(folder), "--port", "0"]
    command += ["--max_batch_size", str(batch), "--cpu_threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "/v1" not in line:
        raise SystemExit(f"the server did not start: {line}")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return process, line.split()[1]


class LoadGenerator:
    """Clients that send requests for `seconds`, and their measurements."""

    def __init__(self, address: str, new_tokens: int) -> None:
        self.address, self.new_tokens = address, new_tokens
        self.tokens = 0
        self.ttft: list[float] = []
        self.latency: list[float] = []
        self._lock = threading.Lock()

    def send_request(self, client: OpenAIClient, question: str) -> None:
        request = {
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": self.new_tokens,
            "stream_options": {"include_usage": True},
        }
        started, first, tokens = time.perf_counter(), None, 0
        for chunk in client.stream_chat(request):
            if first is None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - started
            tokens = chunk.get("usage", {}).get("completion_tokens", tokens)
        with self._lock:
            self.tokens += tokens
            self.latency.append(time.perf_counter() - started)
            if first is not None:
                self.ttft.append(first)

    def run(self, clients: int, seconds: float) -> float:
        """Throughput in tokens/s."""
        end = time.perf_counter() + seconds

        def client(number: int) -> None:
            connection = OpenAIClient(self.address)
            asked = number
            while time.perf_counter() < end:
                self.send_request(connection, "类型#裙*颜色#白色*" * (1 + asked % 4))
                asked += 1
            connection.close()

        started = time.perf_counter()
        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.tokens / (time.perf_counter() - started)


def stream(client: OpenAIClient, messages: list[dict[str, str]], new_tokens: int) -> tuple[list[float], str]:
    """When each piece of the answer's text came, in seconds from the request, and the answer."""
    started, times, text = time.perf_counter(), [], ""
    request = {"messages": messages, "temperature": 0, "max_tokens": new_tokens}
    for chunk in client.stream_chat(request):
        if chunk["choices"] and (piece := chunk["choices"][0]["delta"].get("content")):
            times.append(time.perf_counter() - started)
            text += piece
    return times, text


def compare_turns(address: str, length: int, new_tokens: int) -> None:
    """Print the time to the first text of two turns of a conversation."""
    client = OpenAIClient(address)
    messages = [{"role": "user", "content": ("颜色#白色*风格#简约*" * length)[:length]}]
    first, answer = stream(client, messages, new_tokens)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "材质#棉"}]
    second, _ = stream(client, messages, new_tokens)
    print(f"first text: {first[0]:.3f} s in the first turn, {second[0]:.3f} s in the second")


def measure_stall(address: str, length: int) -> None:
    """Print the times between pieces of an answer while a long prompt arrives."""
    client = OpenAIClient(address)
    gaps: list[float] = []

    def answer() -> None:
        times, _ = stream(OpenAIClient(address), [{"role": "user", "content": "类型#裙"}], 1000)
        gaps.extend(later - earlier for earlier, later in pairwise(times))

    thread = threading.Thread(target=answer)
    thread.start()
    time.sleep(0.5)
    prompt = ("材质#棉*款式#宽松*" * length)[:length]
    times, _ = stream(client, [{"role": "user", "content": prompt}], 8)
    thread.join()
    gaps.sort()
    median, worst = statistics.median(gaps), gaps[int(0.99 * len(gaps))]
    print(
        f"between pieces of text: median {median:.3f} s, p99 {worst:.3f} s, longest {gaps[-1]:.3f} s; "
        f"the long prompt's first text after {times[0]:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_path", type=Path, help="a model or exported folder")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--max_batch_size", type=int, default=8)
    parser.add_argument("--cpu_threads", type=int, default=0)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--long_prompt", type=int, default=1200, help="characters; 0: skip these figures")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each number of clients")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model_path or make_model(Path(scratch) / "model", args.layers, args.hidden)
        process, address = start_server(folder, args.max_batch_size, args.cpu_threads)
        try:
            LoadGenerator(address, args.new_tokens).run(1, 1.0)  # warm-up
            print("| clients | tokens/s | first text, s | whole answer, s |\n|---|---|---|---|")
            for clients in args.clients:
                load = LoadGenerator(address, args.new_tokens)
                speed = load.run(clients, args.seconds)
                first, whole = (statistics.median(times or [0.0]) for times in (load.ttft, load.latency))
                print(f"| {clients} | {speed:.1f} | {first:.2f} | {whole:.2f} |", flush=True)
            if args.long_prompt:
                compare_turns(address, args.long_prompt, args.new_tokens)
                measure_stall(address, args.long_prompt)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
