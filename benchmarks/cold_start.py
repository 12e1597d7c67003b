"""From a folder that is not in the page cache to the first token of an answer.

    python benchmarks/cold_start.py FOLDER ...

For each folder, of a model or exported: the time to read its files alone; then, after they have been dropped
from the page cache again, the time of `paddle-glm chat` in a process of its own, imports included, until it
takes a question, and from a short question to its first token. Linux only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import processor  # noqa: E402

QUESTION = "你好，请介绍一下你自己。"
ASKS = "用户：".encode()


def drop_from_cache(folder: Path) -> None:
    """Forget the folder's files, which must have been written to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(folder: Path) -> tuple[int, float]:
    """Bytes of the folder's files, and the time to read them one after the other."""
    drop_from_cache(folder)
    started, total = time.perf_counter(), 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while block := file.read(1 << 24):
                    total += len(block)
    return total, time.perf_counter() - started


def chat_seconds(folder: Path, threads: int) -> tuple[float, float]:
    """Seconds until `chat` asks, and from the question to its first token."""
    drop_from_cache(folder)
    words = ["chat", "--model_name_or_path", str(folder), "--max_new_tokens", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "paddle_glm.main", *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        moments = []
        for line in (f"{QUESTION}\n", "stop\n"):
            wait_for_question(process.stdout.fileno())
            moments.append(time.perf_counter() - started)
            process.stdin.write(line.encode())
            process.stdin.flush()
    if process.returncode:
        raise SystemExit(f"chat with {folder} ended with code {process.returncode}: run it to see why")
    return moments[0], moments[1] - moments[0]


def wait_for_question(descriptor: int) -> None:
    seen = b""
    while ASKS not in seen:
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            raise SystemExit(f"chat ended after {seen!r}: run it to see why")
        seen += piece


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    rows = {}
    for folder in args.folders:
        runs = []
        for _ in range(args.rounds):
            size, reading = read_seconds(folder)
            opening, first = chat_seconds(folder, args.threads)
            runs.append({"bytes": float(size), "read": reading, "open": opening, "first token": first})
        rows[str(folder)] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(f"{processor()}, {args.threads} threads; seconds, files not in the page cache")
    print("| folder | GB | reading the files | chat asks | first token |\n|---|---|---|---|---|")
    for name, row in rows.items():
        seconds = " | ".join(f"{row[key]:.1f}" for key in ("read", "open", "first token"))
        print(f"| {name} | {row['bytes'] / 1e9:.2f} | {seconds} |")
    if args.json is not None:
        args.json.write_text(json.dumps({"processor": processor(), "medians": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
