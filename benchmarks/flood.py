"""What streams notice of clients that send prompts of 1 MB, which the server refuses as too long.

    python benchmarks/flood.py [--rates 10 50 0] [--flooders 2] [--model_path FOLDER] [-- --cpu_threads 1]

Makes a small random model unless --model_path is given. Four streams are measured alone, and beside floods of
--rates prompts a second (0: without a pause); at last a flood has the server to itself. The flooders are a
process of their own that sends requests made before over connections that stay. Processor time is printed in
percent of one processor, the server's and the flooders', for on few processors the streams wait for both.
"""

import argparse
import contextlib
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.soak import (  # noqa: E402
    PATH,
    TIMEOUT,
    Server,
    add_server_arguments,
    running_server,
)

STREAMS = 4
PROMPTS = ("字" * 340_000, "the quick brown fox " * 50_000, "".join(map(chr, range(0x4E00, 0x9FA5))) * 16)


class Flooder(threading.Thread):
    """Sends one of the prompts `rate` times a second; 0: again as soon as it is answered."""

    def __init__(self, port: int, number: int, rate: float) -> None:
        super().__init__()
        message = {"role": "user", "content": PROMPTS[number % len(PROMPTS)]}
        body = json.dumps({"messages": [message]}, ensure_ascii=False).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._port, self._interval = port, 1 / rate if rate else 0.0
        self.statuses: Counter[str] = Counter()
        self.stopping = threading.Event()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), TIMEOUT) as connection:
            due = time.monotonic()
            while not self.stopping.is_set():
                connection.sendall(self._request)
                answer = b""
                while not answer.endswith(b"}"):  # of an error in JSON
                    answer += connection.recv(1 << 16)
                self.statuses[answer[9:12].decode()] += 1
                due += self._interval
                self.stopping.wait(max(0.0, due - time.monotonic()))


def run_flooders(port: int, count: int, rate: float) -> None:
    """The process of the flooders, until its standard input is closed. rate: of all together."""
    flooders = [Flooder(port, number, rate / count) for number in range(count)]
    print("ready", flush=True)
    used, started = time.process_time(), time.monotonic()
    for flooder in flooders:
        flooder.start()
    sys.stdin.read()
    used, seconds = time.process_time() - used, time.monotonic() - started
    for flooder in flooders:
        flooder.stopping.set()
    for flooder in flooders:
        flooder.join()
    statuses = sum((flooder.statuses for flooder in flooders), Counter[str]())
    print(json.dumps({"used": used, "seconds": seconds, "statuses": statuses}), flush=True)


def processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def flood(server: Server, count: int, rate: float) -> Iterator[None]:
    """Flooders beside what the block does; then prints what they did."""
    command = [sys.executable, __file__, "--flood", str(server.port), str(count), str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        used = processor_seconds(server.process.pid)
        try:
            yield
        finally:
            used = processor_seconds(server.process.pid) - used
            process.stdin.close()
            result = json.loads(process.stdout.readline())
    seconds, requests = result["seconds"], sum(result["statuses"].values())
    print(
        f"{requests / seconds:.0f} prompts of 1 MB a second, answered with {result['statuses']}: "
        f"the server takes {100 * used / seconds:.0f} % of a processor ({1e3 * used / requests:.1f} ms a "
        f"prompt), the flooders {100 * result['used'] / seconds:.0f} %",
        flush=True,
    )


def stream_gaps(server: Server, tokens: int) -> list[float]:
    """Seconds between pieces of text of streams that run together, sorted."""
    gaps: list[float] = []

    def run(number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"类型#裙{number}"}], "stream": True}
        connection = HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            text = json.dumps({**body, "max_tokens": tokens, "seed": number})
            connection.request("POST", PATH, text, {"Content-Type": "application/json"})
            times = [time.perf_counter() for line in connection.getresponse() if re.match(b"data: {", line)]
        gaps.extend(later - earlier for earlier, later in pairwise(times))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(gaps)


def print_gaps(name: str, server: Server, tokens: int) -> None:
    used, started = processor_seconds(server.process.pid), time.monotonic()
    gaps = stream_gaps(server, tokens)
    used, seconds = processor_seconds(server.process.pid) - used, time.monotonic() - started
    milliseconds = [1e3 * gap for gap in (statistics.median(gaps), gaps[int(0.99 * len(gaps))], gaps[-1])]
    print(
        "{}: between tokens median {:.0f} ms, p99 {:.0f} ms, longest {:.0f} ms; ".format(name, *milliseconds)
        + f"the server takes {100 * used / seconds:.0f} % of a processor",
        flush=True,
    )


def measure(server: Server, flooders: int, rates: list[float], tokens: int) -> None:
    stream_gaps(server, tokens)  # warm-up
    print_gaps(f"{STREAMS} streams alone", server, tokens)
    for rate in rates:
        with flood(server, flooders, rate):
            print_gaps(f"{STREAMS} streams beside a flood", server, tokens)
    with flood(server, 1, 0):
        time.sleep(5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_server_arguments(parser)
    parser.add_argument("--rates", type=float, nargs="*", default=[10, 50, 0], help="prompts a second")
    parser.add_argument("--flooders", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=300, help="of each stream")
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.flood:
        run_flooders(int(args.flood[0]), int(args.flood[1]), float(args.flood[2]))
        return
    with running_server(args) as server:
        measure(server, args.flooders, args.rates, args.tokens)


if __name__ == "__main__":
    main()
