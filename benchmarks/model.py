"""Training steps of ChatGLM2 compared with plain PyTorch and PaddleNLP, and greedy decoding with PaddleNLP.

    python benchmarks/model.py [--sizes quickstart 30m --setups 1x1 1x2 2x1 --rounds 7 --json FILE]

A setup is PROCESSESxTHREADS: 2x1 are two tensor-parallel processes of one thread. Each library runs in
processes of its own, PyTorch in an environment that the first run makes. They take turns, a few steps each,
so that a machine whose speed drifts favours none. Weights and tokens are random: only the time is compared.
A training step is forward, backward, clipping by the global norm and AdamW.

"paddle_glm, MKL untouched" runs without the instructions that `paddle_glm.mkl` chooses, PaddleNLP with them.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.launched import Ranks, launched_environments  # noqa: E402
from benchmarks.training.worker import Job, Sizes  # noqa: E402
from paddle_glm.mkl import VARIABLE  # noqa: E402

TORCH = "torch==2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # without CUDA's libraries
SIZES = {
    "quickstart": Sizes(layers=2, hidden=128, heads=4, groups=2, ffn=344, vocab=1208, batch=24, length=77),
    "30m": Sizes(layers=8, hidden=512, heads=8, groups=2, ffn=1536, vocab=4000, batch=4, length=128),
}


@dataclass(frozen=True)
class Peer:
    """A library: the module of its worker, and how its processes are started."""

    name: str
    module: str
    python: str = sys.executable
    variables: dict[str, str] = field(default_factory=dict)
    tensor_parallel: bool = True
    decodes: bool = True


def peers(torch_python: Path) -> list[Peer]:
    """paddle_glm first, what it is compared with after it."""
    return [
        Peer("paddle_glm", "paddle_model"),
        Peer("PyTorch", "torch_model", str(torch_python), decodes=False),
        Peer("PaddleNLP", "paddlenlp_model", tensor_parallel=False),
        Peer("paddle_glm, MKL untouched", "paddle_model", variables={VARIABLE: ""}),
    ]


def torch_environment(folder: Path) -> Path:
    """The interpreter of an environment with PyTorch, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        words = ["-m", "pip", "install", "--quiet", "--extra-index-url", TORCH_INDEX, TORCH, "numpy"]
        subprocess.run([python, *words], check=True)
    return python


class Workers(Ranks):
    """The processes of one peer, ready to run steps."""

    def __init__(self, peer: Peer, job: Job) -> None:
        environments = launched_environments(job.degree, job.threads)
        port = int(environments[0]["PADDLE_MASTER"].rpartition(":")[2])
        processes: list[subprocess.Popen[str]] = []
        for rank, environment in enumerate(environments):
            argument = json.dumps(asdict(replace(job, rank=rank, port=port)))
            processes.append(
                subprocess.Popen(
                    [peer.python, "-W", "ignore", "-m", f"benchmarks.training.{peer.module}", argument],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**environment, **peer.variables, "PYTHONPATH": str(ROOT)},
                    cwd=ROOT,
                    text=True,
                )
            )
        super().__init__(peer.name, processes)
        self.answer()

    def seconds(self, steps: int) -> float:
        """Seconds of one step, the mean of `steps`."""
        return float(self.ask(str(steps))) / steps


@contextmanager
def started(peer: Peer, job: Job) -> Iterator[Workers]:
    workers = Workers(peer, job)
    try:
        yield workers
    finally:
        workers.close()


def compare(candidates: Sequence[Peer], job: Job, rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Tokens per second of each, and how many times as fast the first is: medians over the rounds."""
    tokens = job.sizes.batch * (job.new_tokens or job.sizes.length)
    with ExitStack() as stack:
        workers = [stack.enter_context(started(peer, job)) for peer in candidates]
        times = [[one.seconds(steps) for one in workers] for _ in range(rounds)]
    first = [row[0] for row in times]
    return {
        one.name: {
            "tokens_per_second": tokens / statistics.median(column),
            "ratio": statistics.median(theirs / ours for ours, theirs in zip(first, column, strict=True)),
        }
        for one, column in zip(workers, zip(*times, strict=True), strict=True)
    }


def table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Markdown: tokens per second, and in brackets the ratio of paddle_glm's speed to that."""
    lines = [" | ".join(["", "", *names]), "---|" * (len(names) + 2)]
    for row in rows:
        cells = [f"{row['task']}, {row['size']}", row["setup"]]
        for name in names:
            one = row["results"].get(name)
            cells.append("-" if one is None else f"{one['tokens_per_second']:.0f} ({one['ratio']:.2f})")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |".replace("| |", "|") for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--setups", nargs="+", default=["1x1", "1x2", "2x1"])
    parser.add_argument("--tasks", nargs="+", choices=("training", "decoding"), default=["training"])
    parser.add_argument("--peers", nargs="+", help="names to compare (default: all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps of each library in a round")
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--torch_environment", type=Path, default=ROOT / "build" / "torch-environment")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    known = peers(torch_environment(args.torch_environment))
    known = [peer for peer in known if not args.peers or peer.name in args.peers]
    rows: list[dict[str, Any]] = []
    for task in args.tasks:
        for size in args.sizes:
            for setup in args.setups:
                degree, threads = map(int, setup.split("x"))
                able = [
                    peer
                    for peer in known
                    if (degree == 1 or peer.tensor_parallel) and (task == "training" or peer.decodes)
                ]
                job = Job(SIZES[size], threads, degree, 0, 0, args.new_tokens if task == "decoding" else 0)
                results = compare(able, job, args.rounds, args.steps if task == "training" else 1)
                rows.append({"task": task, "size": size, "setup": setup, "results": results})
                print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows, [peer.name for peer in known]))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
