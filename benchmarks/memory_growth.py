"""Memory that long-lived loops leave behind: bytes for every 1,000 tokens.

    python benchmarks/memory_growth.py --tokens 1000000
    python benchmarks/memory_growth.py --loops server:dygraph chat --trace

Loops: `server:ENGINE` (the scheduler, eight requests at once), `chat` (a session in dygraph) and
`infer:ENGINE` (a session over an exported graph), each in a process of its own over a small random
model. The first fifth of the tokens is warm-up. In the rest memory is sampled a hundred times, and the
growth is the slope of a line through the samples, of the first half and of the second. Sampled is what
malloc has given out (glibc's `malloc_info`; Python's objects are of malloc too here) or, elsewhere,
resident memory; rows that run make samples differ by some hundred kB. Paddle Inference is told to free a
step's tensors at once. --trace also prints what tracemalloc found, which makes Python several times as slow.
"""

import argparse
import ctypes
import gc
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_glm.auto.engine import Engine, open_engine  # noqa: E402
from paddle_glm.backends import paddle_inference  # noqa: E402
from paddle_glm.generation import ChatSession, GenerationOutput, GenerationParams  # noqa: E402
from paddle_glm.serving.batching.scheduler import Scheduler  # noqa: E402
from paddle_glm.serving.batching.streaming import submit_chat  # noqa: E402
from paddle_glm.tiny.checkpoint import write_checkpoint  # noqa: E402
from paddle_glm.tiny.grammar import make_rows  # noqa: E402

ENGINES = ("dygraph", "paddle", "onnxruntime", "openvino")
LOOPS = [
    *(f"server:{engine}" for engine in ENGINES),
    "chat",
    *(f"infer:{engine}" for engine in ENGINES if engine != "dygraph"),
]
ANSWER = 100  # tokens
AT_ONCE = 8
SAMPLES = 100
STORED = 100_000  # bytes of ended requests that the server keeps, full in the warm-up


def make_models(folder: Path) -> None:
    """A model and its exports, in folders called after their engines."""
    texts = [text for row in make_rows(300) for text in row.values()]
    write_checkpoint(folder / "dygraph", texts, num_layers=2, hidden_size=64, ffn_hidden_size=96)
    for engine in ENGINES[1:]:
        words = ["export", "--model_name_or_path", str(folder / "dygraph"), "--output_path"]
        words += [str(folder / engine)]
        if engine != "paddle":
            words += ["--format", "onnx", "--target", engine]
        subprocess.run(
            [sys.executable, "-m", "paddle_glm.main", *words],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )


def questions() -> Iterator[str]:
    """Texts of different lengths, without end."""
    count = 0
    while True:
        yield "类型#裙*颜色#白色*" * (1 + count % 7) + str(count)
        count += 1


def run_server(opened: Callable[[], Engine], params: GenerationParams) -> Iterator[int]:
    """Yield the tokens of each answer of a scheduler that always has `AT_ONCE` requests."""
    scheduler = Scheduler(opened, AT_ONCE, prefix_memory=STORED)
    texts, done = questions(), threading.Semaphore(0)
    counts: list[int] = []

    def emit(event: Any) -> None:
        if isinstance(event, GenerationOutput | Exception):
            counts.append(event.completion_tokens if isinstance(event, GenerationOutput) else 0)
            done.release()

    def submit() -> None:
        submit_chat(scheduler, [{"role": "user", "content": next(texts)}], params, emit)

    for _ in range(AT_ONCE):
        submit()
    try:
        while True:
            done.acquire()
            yield counts.pop()
            submit()
    finally:
        scheduler.close()


def run_session(opened: Callable[[], Engine], params: GenerationParams) -> Iterator[int]:
    """Yield the tokens of each answer of a session, with conversations of three rounds."""
    engine, texts = opened(), questions()
    session = ChatSession(engine.backend, engine.tokenizer, params)
    while True:
        messages: list[dict[str, Any]] = []
        for _ in range(3):
            messages.append({"role": "user", "content": next(texts)})
            for _piece in session.stream(messages):
                pass
            reply = session.reply
            assert reply is not None
            messages += reply.messages
            yield reply.completion_tokens


def allocated_bytes() -> int | None:
    """Bytes that malloc has given out; None where it is not glibc's."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_info"):
        return None
    libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
    with tempfile.NamedTemporaryFile() as file:
        stream = libc.fopen(file.name.encode(), b"w")
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        totals = Path(file.name).read_text(encoding="ascii").rpartition("</heap>")[2]
    sizes = dict(re.findall(r'type="(\w+)"[^>]* size="(\d+)"', totals.partition("<aspace")[0]))
    found = {name: int(size) for name, size in sizes.items() if name != "max"}
    return found["current"] + found["mmap"] - found["fast"] - found["rest"]


def measure(loop: str, folder: Path, tokens: int, trace: bool) -> None:
    kind, _, name = loop.partition(":")
    engine = name or "dygraph"
    params = GenerationParams(max_new_tokens=ANSWER, seed=0, temperature=1.0)

    # Else up to 16 MB of freed tensors wait in Paddle Inference and hide what grows.
    paddle_inference.FREED_AT_ONCE_GB = 0.0

    def opened() -> Engine:
        options: dict[str, Any] = {} if engine == "dygraph" else {"cpu_threads": 1}
        return open_engine(folder / engine, engine, device="cpu", **options)

    answers = (run_server if kind == "server" else run_session)(opened, params)
    process, started = psutil.Process(), time.perf_counter()
    done, traced = 0, None
    samples: list[tuple[int, int, int]] = []
    for count in answers:
        done += count
        if done > tokens / 5 + len(samples) * 0.8 * tokens / SAMPLES:
            gc.collect()
            samples.append((done, process.memory_info().rss, allocated_bytes() or process.memory_info().rss))
            if trace and traced is None:
                tracemalloc.start(8)
                traced = tracemalloc.take_snapshot()
        if done >= tokens:
            break
    speed = done / (time.perf_counter() - started)
    if traced is not None:
        for line in tracemalloc.take_snapshot().compare_to(traced, "lineno")[:12]:
            print(line)
    answers.close()  # type: ignore[attr-defined]
    tokens_at, resident, allocated = np.array(samples, dtype=np.float64).T
    half = len(samples) // 2
    slopes = [
        f"{1000 * np.polyfit(tokens_at[part], allocated[part], 1)[0]:.0f}"
        for part in (slice(0, half), slice(half, None))
    ]
    megabytes = f"{resident[0] / 1e6:.0f} | {resident[-1] / 1e6:.0f}"
    print(f"| {loop} | {done} | {speed:.0f} | {megabytes} | {' | '.join(slopes)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        measure(args.loops[0], args.folder, args.tokens, args.trace)
        return
    with tempfile.TemporaryDirectory() as scratch:
        make_models(Path(scratch))
        print(
            "| loop | tokens | tokens/s | MB after a fifth | MB at the end | bytes per 1,000 tokens | later |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        for loop in args.loops:
            words = ["--folder", scratch, "--loops", loop, "--tokens", str(args.tokens)]
            words += ["--trace"] if args.trace else []
            environment = {**os.environ, "PYTHONMALLOC": "malloc"}
            subprocess.run([sys.executable, __file__, *words], check=True, env=environment)


if __name__ == "__main__":
    main()
