"""Throughput and latency of `paddle-glm serve` with one and several clients.

    python benchmarks/serving.py [--model_path FOLDER] [--layers 8 --hidden 512] [--clients 1 4 8 16]
    python benchmarks/serving.py --model_path EXPORTED --program cpp_infer/build/paddle_glm_infer --clients 1
    python benchmarks/serving.py --ranks 2 --cpu_threads 1

The second measures `paddle_glm_infer --serve`, the third two tensor-parallel processes of a thread each. The
seconds until the server listens and its peak memory (of all processes, mapped files included) are printed.
For each number of clients: tokens per second of all together, and how long the first piece of text and a
whole answer took (medians). A client asks again as soon as it has its answer. Prompts differ in length;
answers are greedy and are cut at --new_tokens. --openai: these clients are of the package openai. Without a
folder a model of random weights is made. Then the first text of a conversation's first and second turn, of a
short prompt that comes while a long one is read, and the time between pieces of text of answers while another
client's long prompt is read (--long_prompt, in tokens; 0: left out). What follows -- are flags of
`paddle-glm serve`.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from paddle_glm.serving.client import OpenAIClient
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import make_rows

ROOT = Path(__file__).resolve().parent.parent


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


def start_server(folder: Path, args: argparse.Namespace, logs: str) -> tuple[subprocess.Popen[str], str]:
    """The server's process, or its launcher's, and its address, once it listens. logs: a folder."""
    if args.program is None:
        command = [sys.executable, "-m", "paddle_glm.main", "serve"]
        if args.ranks > 1:
            command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", logs]
            command += ["--nproc_per_node", str(args.ranks), str(ROOT / "tools" / "api.py")]
        command += ["--model_path", str(folder)]
        command += ["--max_batch_size", str(args.max_batch_size), "--cpu_threads", str(args.cpu_threads)]
        command += args.server_flags
    else:
        command = [str(args.program), "--model_dir", str(folder), "--serve"]
        command += ["--num_threads", str(args.cpu_threads)] if args.cpu_threads else []
        command += ["--engine", args.engine] if args.engine else []
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        if found := re.search(r"http\S+/v1", line):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, found[0]
        said.append(line)
    raise SystemExit(f"the server did not start: {''.join(said)}")


def peak_gigabytes(process: "subprocess.Popen[str]") -> float:
    """Of the process and those that it started, together."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    statuses = [Path(f"/proc/{pid}/status").read_text(encoding="ascii") for pid in family]
    return sum(int(found[1]) for text in statuses if (found := re.search(r"VmHWM:\s*(\d+)", text))) / 1e6


class OpenAIPackage:
    """The package openai with the interface of our client."""

    def __init__(self, address: str) -> None:
        import openai

        self._client = openai.OpenAI(base_url=address, api_key="none", timeout=3600, max_retries=0)
        self._model = self._client.models.list().data[0].id

    def stream_chat(self, request: Any) -> Iterator[Any]:
        for chunk in self._client.chat.completions.create(model=self._model, stream=True, **request):
            yield chunk.model_dump(exclude_none=True)

    def close(self) -> None:
        self._client.close()


class LoadGenerator:
    """Clients that send requests for `seconds`, and their measurements."""

    def __init__(self, address: str, args: argparse.Namespace) -> None:
        self.address, self.new_tokens = address, args.new_tokens
        self._make_client: Any = OpenAIPackage if args.openai else OpenAIClient
        self.tokens = 0
        self.ttft: list[float] = []
        self.latency: list[float] = []
        self._lock = threading.Lock()

    def send_request(self, client: Any, question: str) -> None:
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
            connection = self._make_client(self.address)
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


def text_of_tokens(client: OpenAIClient, unit: str, tokens: int) -> str:
    """`unit` again and again, about so many tokens."""
    request = {"temperature": 0, "max_tokens": 1, "stream_options": {"include_usage": True}}

    def count(text: str) -> int:
        message = {"role": "user", "content": "?" + text}  # another beginning: nothing of it is read before
        chunks = list(client.stream_chat({**request, "messages": [message]}))
        return int(chunks[-1]["usage"]["prompt_tokens"])

    few = count(unit)
    return unit * max(1, (tokens - few) * 10 // (count(unit * 11) - few))


def measure_overtaking(address: str, tokens: int) -> None:
    """Print the time to the first text of a short prompt that comes while a long one is read, alone."""
    client, others = OpenAIClient(address), []

    def first_text(prompt: str, client: OpenAIClient = client) -> float:
        times, _ = stream(client, [{"role": "user", "content": prompt}], 16)
        return times[0] if times else float("nan")

    alone = first_text(text_of_tokens(client, "图案#条纹*裙长#中长裙*", tokens))
    prompt = text_of_tokens(client, "风格#清新*领型#圆领*", tokens)
    thread = threading.Thread(target=lambda: others.append(first_text(prompt, OpenAIClient(address))))
    thread.start()
    time.sleep(alone / 3)
    short = first_text("类型#裤")
    thread.join()
    print(
        f"first text of a short prompt that comes {alone / 3:.2f} s after a long one: {short:.3f} s; of the "
        f"long one alone {alone:.2f} s, with the short one {others[0]:.2f} s"
    )


def compare_turns(address: str, tokens: int, new_tokens: int) -> None:
    """Print the time to the first text of two turns of a conversation."""
    client = OpenAIClient(address)
    messages = [{"role": "user", "content": text_of_tokens(client, "颜色#白色*风格#简约*", tokens)}]
    first, answer = stream(client, messages, new_tokens)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "材质#棉"}]
    second, _ = stream(client, messages, new_tokens)
    print(f"first text: {first[0]:.3f} s in the first turn, {second[0]:.3f} s in the second")


def token_gaps(client: OpenAIClient, prompt: str, new_tokens: int) -> list[float]:
    """Seconds between the tokens of an answer, but for those without text of their own."""
    request = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": new_tokens}
    gaps, before = [], 0.0
    for chunk in client.stream_chat({**request, "logprobs": True}):
        if chunk["choices"] and (logprobs := chunk["choices"][0].get("logprobs")):
            now = time.perf_counter()
            if before and len(logprobs["content"]) == 1:
                gaps.append(now - before)
            before = now
    return gaps


def measure_stall(address: str, tokens: int, running: int) -> None:
    """Print the times between tokens of running answers while a long prompt arrives."""
    client = OpenAIClient(address)
    gaps: list[float] = []
    # Another beginning for each number of answers: what was read for one is kept, and not read again.
    prompt = f"{running}{text_of_tokens(client, '材质#棉*款式#宽松*', tokens)}"

    def answer(number: int) -> None:
        gaps.extend(token_gaps(OpenAIClient(address), "类型#裙" * number, 1000))

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(1, running + 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    times, _ = stream(client, [{"role": "user", "content": prompt}], 8)
    for thread in threads:
        thread.join()
    gaps.sort()
    median, worst = statistics.median(gaps), gaps[int(0.99 * len(gaps))]
    print(
        f"{running} running answers, between tokens: median {median:.3f} s, p99 {worst:.3f} s "
        f"({worst / median:.1f} x), longest {gaps[-1]:.3f} s; the long prompt's first text after "
        f"{times[0] if times else float('nan'):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_path", type=Path, help="a model or exported folder")
    parser.add_argument("--program", type=Path, help="measure this C++ program's --serve")
    parser.add_argument("--engine", help="the C++ program's engine")
    parser.add_argument("--openai", action="store_true", help="clients of the package openai")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16, 64])
    parser.add_argument("--max_batch_size", type=int, default=16)
    parser.add_argument("--cpu_threads", type=int, default=0, help="of each process; 0: its share of them")
    parser.add_argument("--ranks", type=int, default=1, help="tensor-parallel processes")
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--long_prompt", type=int, default=1900, help="tokens; 0: skip these figures")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each number of clients")
    parser.add_argument("server_flags", nargs="*", help="of paddle-glm serve, behind --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model_path or make_model(Path(scratch) / "model", args.layers, args.hidden)
        started = time.perf_counter()
        process, address = start_server(folder, args, scratch)
        try:
            print(f"listens after {time.perf_counter() - started:.1f} s")
            LoadGenerator(address, args).run(1, 1.0)  # warm-up
            print("| clients | tokens/s | first text, s | whole answer, s |\n|---|---|---|---|")
            for clients in args.clients:
                load = LoadGenerator(address, args)
                speed = load.run(clients, args.seconds)
                # A model of random weights may answer with tokens that have no text.
                first = f"{statistics.median(load.ttft):.2f}" if load.ttft else "no text"
                whole = statistics.median(load.latency)
                print(f"| {clients} | {speed:.1f} | {first} | {whole:.2f} |", flush=True)
            if args.long_prompt:
                compare_turns(address, args.long_prompt, args.new_tokens)
                measure_overtaking(address, args.long_prompt)
                for running in (1, 7):
                    measure_stall(address, args.long_prompt, running)
            print(f"peak memory {peak_gigabytes(process):.2f} GB")
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
