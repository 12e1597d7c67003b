"""A ChatGLM2-6B with random weights in several engines: prompts, decoding, memory, time until usable.

    python benchmarks/chat_engines.py --environments /tmp/peers --install llama_cpp chatglm_cpp
    python benchmarks/chat_engines.py --environments /tmp/peers --layers 4 --engines llama_cpp dygraph:int4

Each engine is a file in benchmarks/peers. All but the project's own have a virtual environment each, compiled
for this machine where their users would. Weights are written once, up to 7 GB for an int8 model of 28 layers.
In each round each engine in turn is opened by a fresh process; medians over the rounds count. "Usable" is the
time from importing the engine, with its files in the page cache, to the logits behind eight tokens. Memory
includes file pages that are mapped. A prompt is computed in one call; decoding is the median of a process's
steps. All processes have as many cores as threads.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import processor  # noqa: E402
from benchmarks.peers.contract import EngineFile, Shape  # noqa: E402

ENGINES = tuple(
    sorted(path.stem for path in (ROOT / "benchmarks" / "peers").glob("*.py") if path.stem != "contract")
)
FIRST_PROMPT = 8  # tokens


def engine_file(name: str) -> EngineFile:
    return cast(EngineFile, importlib.import_module(f"benchmarks.peers.{name}"))


@dataclass(frozen=True)
class Entry:
    """An engine with one of its weight formats."""

    engine: str
    kind: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.kind}"

    @staticmethod
    def parse(word: str) -> "list[Entry]":
        """ENGINE:KIND, or ENGINE for all of its kinds."""
        engine, _, kind = word.partition(":")
        if engine not in ENGINES:
            raise argparse.ArgumentTypeError(f"{engine!r}: expected one of {', '.join(ENGINES)}")
        kinds = engine_file(engine).KINDS
        if kind and kind not in kinds:
            raise argparse.ArgumentTypeError(f"{word!r}: {engine} has {', '.join(kinds)}")
        return [Entry(engine, one) for one in ([kind] if kind else kinds)]


def python_of(engine: str, environments: Path | None) -> Path:
    """The interpreter that runs an engine."""
    if not engine_file(engine).PACKAGES:
        return Path(sys.executable)
    if environments is None:
        raise SystemExit(f"{engine} needs --environments FOLDER, made with --install {engine}")
    program = environments / engine / "bin" / "python"
    if not program.exists():
        raise SystemExit(f"{program} is missing: make it with --install {engine}")
    return program


def install(engine: str, environments: Path) -> None:
    """Make an engine's environment. Compiles with two jobs."""
    file = engine_file(engine)
    if not file.PACKAGES:
        return
    venv.create(environments / engine, with_pip=True, clear=True)
    words = [str(python_of(engine, environments)), "-m", "pip", "install"]
    for name in file.FROM_SOURCE:
        words += ["--no-binary", name]
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": "2", **file.BUILD}
    subprocess.run([*words, *file.PACKAGES], check=True, env=environment)


def child(python: Path, task: str, entry: Entry, settings: dict[str, Any]) -> dict[str, float]:
    """Do `task` in a process of its own, with the engine's interpreter; returns what it prints last."""
    words = [str(python), __file__, "--child", task, entry.engine, entry.kind, json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    environment["CI"] = "true"  # keeps OpenVINO from sending telemetry
    environment.pop("PYTHONPATH", None)  # an environment has its own packages
    done = subprocess.run(words, capture_output=True, env=environment, text=True)
    if done.returncode:
        raise SystemExit(f"{entry}: {task} ended with code {done.returncode}\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_child(task: str, engine: str, kind: str, words: str) -> None:
    """In the child: write an engine's weights, or measure it."""
    settings = json.loads(words)
    shape, folder = Shape(layers=settings["layers"]), Path(settings["folder"])
    if task == "write":
        engine_file(engine).write(folder, kind, shape)
        print(json.dumps({}))
    else:
        print(json.dumps(measure(engine, kind, shape, folder, settings)))


def measure(engine: str, kind: str, shape: Shape, folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Seconds, bytes, and tokens per second of an engine in this process."""
    lengths = sorted({*settings["prompts"], *settings["contexts"]})
    threads, context = settings["threads"], max(FIRST_PROMPT, *lengths) + settings["steps"]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    numbers = random.Random(0)
    ids = [numbers.randrange(5, shape.vocab - 1000) for _ in range(context)]
    started = time.perf_counter()
    opened = engine_file(engine).open_engine(folder, kind, shape, threads, context)
    opened.prefill(ids[:FIRST_PROMPT])
    row = {"usable": time.perf_counter() - started, "opening": float(memory("VmHWM"))}
    for length in lengths:
        started = time.perf_counter()
        logits = opened.prefill(ids[:length])
        if length in settings["prompts"]:
            row[f"prompt {length}"] = length / (time.perf_counter() - started)
        if logits is not None and not np.isfinite(logits).all():
            raise SystemExit(f"{engine}:{kind} gives logits that are not finite")
        if length in settings["contexts"]:
            times = []
            for token in ids[length : length + settings["steps"]]:
                started = time.perf_counter()
                opened.decode(token)
                times.append(time.perf_counter() - started)
            row[f"decode {length}"] = 1 / statistics.median(times)
    keys = {"peak": "VmHWM", "resident": "VmRSS", "anonymous": "RssAnon"}
    return {**row, **{name: float(memory(key)) for name, key in keys.items()}}


def memory(key: str) -> int:
    """Bytes, from a line of /proc/self/status."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(key)).split()[1])


def prepare(entry: Entry, python: Path, parent: Path, settings: dict[str, Any]) -> Path:
    """The folder with an entry's weights, written where it is missing."""
    folder = parent / f"{entry.engine}-{entry.kind}-{settings['layers']}"
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        child(python, "write", entry, {**settings, "folder": str(partial)})
        partial.rename(folder)
    return folder


def read_files(folder: Path) -> int:
    """Bring a folder into the page cache; returns its bytes."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while block := file.read(1 << 24):
                    total += len(block)
    return total


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure over the runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown: a row per entry; GB, seconds, tokens per second."""
    speeds = [name for name in next(iter(rows.values())) if name.startswith(("prompt", "decode"))]
    speeds.sort(key=lambda name: (name.startswith("decode"), int(name.split()[1])))
    sizes = {"files": "files GB", "opening": "opening GB", "peak": "peak GB", "resident": "resident GB"}
    lines = [
        f"| | usable s | {' | '.join(sizes.values())} | {' | '.join(speeds)} |",
        "|---" * (2 + len(sizes) + len(speeds)) + "|",
    ]
    for name, row in rows.items():
        cells = [f"{row['usable']:.1f}", *(f"{row[size] / 1e9:.2f}" for size in sizes)]
        cells += [f"{row[speed]:.2f}" if row[speed] < 10 else f"{row[speed]:.1f}" for speed in speeds]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--engines",
        type=Entry.parse,
        nargs="+",
        help=f"ENGINE or ENGINE:KIND, of {', '.join(ENGINES)} (default: all)",
    )
    parser.add_argument("--environments", type=Path, help="where the engines' environments are")
    parser.add_argument("--install", nargs="+", choices=ENGINES, help="make these environments, and stop")
    parser.add_argument("--folder", type=Path, default=Path("chat_engines"), help="where weights are written")
    parser.add_argument("--keep", action="store_true", help="keep the weights for another run")
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[32, 512], help="tokens in front of decoding"
    )
    parser.add_argument("--steps", type=int, default=16, help="tokens decoded at each context")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    if args.install:
        if args.environments is None:
            raise SystemExit("--install needs --environments FOLDER")
        for engine in args.install:
            install(engine, args.environments)
        return
    groups = args.engines or [Entry.parse(engine) for engine in ENGINES]
    entries = list(dict.fromkeys(entry for group in groups for entry in group))
    pythons = {entry: python_of(entry.engine, args.environments) for entry in entries}
    settings = {name: getattr(args, name) for name in ("layers", "threads", "prompts", "contexts", "steps")}
    folders = {entry: prepare(entry, pythons[entry], args.folder, settings) for entry in entries}
    runs: dict[str, list[dict[str, float]]] = {str(entry): [] for entry in entries}
    try:
        for number in range(args.rounds):
            for entry in entries:
                files = read_files(folders[entry])
                found = child(pythons[entry], "measure", entry, {**settings, "folder": str(folders[entry])})
                runs[str(entry)].append({**found, "files": files})
                shown = {name: round(value, 2) for name, value in found.items()}
                print(f"round {number}: {entry} {shown}", flush=True)
    finally:
        if not args.keep:
            for folder in folders.values():
                shutil.rmtree(folder)
    rows = {name: medians(found) for name, found in runs.items()}
    print(f"\n{processor()}, {args.threads} threads, {args.layers} layers; tokens per second")
    print(table(rows))
    if args.json is not None:
        report = {"processor": processor(), "threads": args.threads, "shape": asdict(Shape(args.layers))}
        text = json.dumps({**report, "medians": rows, "runs": runs}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(*sys.argv[2:])
    else:
        main()
