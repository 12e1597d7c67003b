"""Inference of one model: one process of several threads against tensor-parallel processes of fewer.

    python benchmarks/tensor_parallel.py --model_name_or_path FOLDER [--setups 1x2 2x1] [--json FILE]
    python benchmarks/tensor_parallel.py --layers 4     # a ChatGLM2-6B of 4 layers, written for the run

A setup is PROCESSESxTHREADS; ratios are to the first one. All setups hold the model at once and take turns,
one measurement each, so that a machine whose speed drifts favours none; those that wait sleep. A decoded
token is a step of the model and the broadcast of the token that rank 0 takes. Medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.launched import Ranks, launched_environments  # noqa: E402
from benchmarks.machine import processor  # noqa: E402
from benchmarks.peers import dygraph  # noqa: E402

SETTLE_SECONDS = 0.3  # OpenMP's threads spin for 0.2 s before they sleep


class Setup(Ranks):
    """The processes of one setup, with the model open."""

    def __init__(self, name: str, folder: Path) -> None:
        degree, threads = map(int, name.split("x"))
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**environment, "PYTHONPATH": str(ROOT)},
                text=True,
            )
            for environment in launched_environments(degree, threads)
        ]
        super().__init__(name, processes)

    def measure(self, task: str, tokens: int, steps: int) -> dict[str, float]:
        """What rank 0 answers."""
        found: dict[str, float] = json.loads(self.ask(f"{task} {tokens} {steps}"))
        return found


def worker(folder: Path) -> None:
    """A rank: opens the model and measures what standard input asks for."""
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.hardware import use_device
    from paddle_glm.models.dygraph import DygraphBackend
    from paddle_glm.parallel import init_parallel
    from paddle_glm.parallel.shutdown import exit_all_ranks

    answers, sys.stdout = sys.stdout, sys.stderr
    use_device("cpu", cpu_threads=int(os.environ["OMP_NUM_THREADS"]))
    group = init_parallel().tensor
    backend = DygraphBackend(AutoModel.from_pretrained(folder, group=group))

    def reply(answer: dict[str, float]) -> None:
        if group.rank == 0:
            print(json.dumps(answer), file=answers, flush=True)

    reply(measure(backend, "decode", 32, 4))
    for line in sys.stdin:
        task, tokens, steps = line.split()
        reply(measure(backend, task, int(tokens), int(steps)))
    exit_all_ranks()


def measure(backend: Any, task: str, length: int, steps: int) -> dict[str, float]:
    """Tokens per second, and the CPU time of this process in seconds per second."""
    ids = np.random.default_rng(0).integers(5, 60000, (1, length))
    times, cpu, started = [], time.process_time(), time.perf_counter()
    logits = backend.prefill(ids, np.ones_like(ids))
    if task == "prompt":
        times.append((time.perf_counter() - started) / length)
    else:
        cpu, started = time.process_time(), time.perf_counter()
        for _ in range(steps):
            begin = time.perf_counter()
            logits = backend.decode(backend.broadcast(logits.argmax(axis=-1)))
            times.append(time.perf_counter() - begin)
    if not np.isfinite(logits).all():
        raise SystemExit("logits are not finite")
    busy = (time.process_time() - cpu) / (time.perf_counter() - started)
    return {"speed": 1 / statistics.median(times), "busy": busy}


def compare(setups: list[Setup], args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of every setup and question, one number per round."""
    questions = [("prompt", length, 1) for length in args.prompts]
    questions += [("decode", length, args.steps) for length in args.contexts]
    found: dict[str, dict[str, list[float]]] = {one.name: {} for one in setups}
    for number in range(args.rounds):
        for task, length, steps in questions:
            for setup in setups:
                time.sleep(SETTLE_SECONDS)
                answer = setup.measure(task, length, steps)
                found[setup.name].setdefault(f"{task} {length}", []).append(answer["speed"])
                shown = f"{answer['speed']:.2f} tokens/s, rank 0 busy {answer['busy']:.2f}"
                print(f"round {number}: {setup.name} {task} {length}: {shown}", flush=True)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: tokens per second, and in brackets the median of the rounds' ratios to the first setup."""
    first = next(iter(found.values()))
    lines = [f"| | {' | '.join(first)} |", "|---" * (len(first) + 1) + "|"]
    for name, row in found.items():
        cells = []
        for question, speeds in row.items():
            ratio = statistics.median(a / b for a, b in zip(speeds, first[question], strict=True))
            cells.append(f"{statistics.median(speeds):.1f} ({ratio:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", type=Path, help="default: random int4 weights")
    parser.add_argument("--layers", type=int, default=4, help="of the random weights")
    parser.add_argument("--setups", nargs="+", default=["1x2", "2x1"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--contexts", type=int, nargs="+", default=[32, 512], help="tokens before decoding")
    parser.add_argument("--steps", type=int, default=16, help="tokens decoded at each context")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(dygraph.model_folder(args.model_name_or_path, args.layers))
        setups = []
        for name in args.setups:  # one after the other: opening takes memory bandwidth
            setups.append(Setup(name, folder))
            stack.callback(setups[-1].close)
            setups[-1].answer()
        found = compare(setups, args)
    print(f"\n{processor()}; tokens per second, and relative to {args.setups[0]}")
    print(table(found))
    if args.json is not None:
        text = json.dumps({"processor": processor(), "runs": found}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
