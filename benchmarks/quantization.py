"""Size on disk, memory and speed of int8 and int4 weights, compared with float weights.

    python benchmarks/quantization.py --layers 8 --hidden 1024 --ffn 3456 --threads 2 --rounds 3
    python benchmarks/quantization.py --model_name_or_path chatglm2-6b --kinds float16 int8 int4 int4-32

Without a model, one with random weights is made: only bytes and times are compared. Each kind is a folder of
its own, quantised once; in every round each folder in turn is opened by a fresh process, which tells what it
took and computes one prefill and a greedy decoding. Medians count, and ratios to the first kind.
Memory is anonymous memory above that of Paddle itself: files that are only mapped are left out.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.merge import anonymous_bytes  # noqa: E402
from paddle_glm.checkpoint import atomic_folder, open_checkpoint, save_checkpoint  # noqa: E402
from paddle_glm.checkpoint.reshard import reshard  # noqa: E402
from paddle_glm.config import ModelConfig  # noqa: E402
from paddle_glm.tiny.checkpoint import initial_weights  # noqa: E402

FLOATS = ("float32", "float16", "bfloat16")


def make_model(folder: Path, args: argparse.Namespace) -> None:
    """Write a ChatGLM2 of the given sizes, in float16 like the released files."""
    config = ModelConfig(
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=2,
        head_dim=64,
        ffn_hidden_size=args.ffn,
        vocab_size=args.vocab,
        max_sequence_length=2048,
        dtype="float16",
    )
    weights = ((name, array.astype(np.float16)) for name, array in initial_weights(config))
    with atomic_folder(folder) as target:
        config.save_pretrained(target)
        save_checkpoint(target, weights)


def write_variant(source: Path, folder: Path, kind: str) -> None:
    """`float16`, `int8`, `int4` or `int4-GROUP` of a float model, `int4-0` with one scale per channel."""
    if kind in FLOATS:
        reshard(source, folder, dtype=kind)
        return
    name, _, group = kind.partition("-")
    reshard(source, folder, quantize=(int(name.removeprefix("int")), int(group) if group else None, False))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Measure a folder in a new process."""
    numbers = (args.batch, args.length, args.new_tokens)
    command = [sys.executable, __file__, "--measure", str(folder), *map(str, numbers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_in_process(folder: str, batch: int, length: int, new_tokens: int) -> dict[str, float]:
    """Memory of loading, and tokens/s of one prefill and of decoding after it."""
    import paddle

    from paddle_glm.auto.model import AutoModel
    from paddle_glm.models.dygraph import DygraphBackend

    paddle.ones([10]).sum()
    before = anonymous_bytes(os.getpid())
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous_bytes(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    model = AutoModel.from_pretrained(folder, dtype=open_checkpoint(folder).float_dtype)
    loading = time.perf_counter() - start
    done.set()
    watcher.join()
    after = anonymous_bytes(os.getpid())
    backend = DygraphBackend(model)
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size - 3, (batch, length))
    seconds = {"prefill": 0.0, "decode": 0.0}
    for _ in range(2):  # the first run is a warm-up
        start = time.perf_counter()
        tokens = backend.prefill(ids, np.ones_like(ids)).argmax(axis=1)
        seconds["prefill"] = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(new_tokens):
            tokens = backend.decode(tokens).argmax(axis=1)
        seconds["decode"] = time.perf_counter() - start
    return {
        "resident": after - before,
        "loading_peak": max(*peak, after) - before,
        "loading": loading,
        "prefill": batch * length / seconds["prefill"],
        "decode": batch * new_tokens / seconds["decode"],
    }


def folder_bytes(folder: Path) -> int:
    """Size of the weights in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def table(rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one row per kind; speeds relative to the first."""
    first = next(iter(rows.values()))
    lines = [
        "| weights | folder MB | memory MB | peak of loading | seconds | prefill, tok/s | decode, tok/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, row in rows.items():
        sizes = " | ".join(f"{row[name] / 1e6:.0f}" for name in ("folder", "resident", "loading_peak"))
        speeds = " | ".join(
            f"{row[name]:.1f} ({row[name] / first[name]:.2f})" for name in ("prefill", "decode")
        )
        lines.append(f"| {kind} | {sizes} | {row['loading']:.1f} | {speeds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", type=Path, help="a float model, instead of a random one")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--ffn", type=int, default=1536)
    parser.add_argument("--vocab", type=int, default=4000)
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["float32", "float16", "int8", "int4"],
        help="float16, int4, int4-32, ...",
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where folders are written (default: a temporary one)")
    args = parser.parse_args()
    if args.folder is not None:
        args.folder.mkdir(parents=True)
    work = args.folder or Path(tempfile.mkdtemp())
    try:
        source = args.model_name_or_path or work / "source"
        if args.model_name_or_path is None:
            make_model(source, args)
        for kind in args.kinds:
            write_variant(source, work / kind, kind)
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in args.kinds}
        for number in range(args.rounds):
            for kind in args.kinds:
                runs[kind].append(measure(work / kind, args))
                shown = {name: round(value, 1) for name, value in runs[kind][-1].items()}
                print(f"round {number}: {kind} {shown}", flush=True)
        rows = {
            kind: {name: statistics.median(run[name] for run in found) for name in found[0]}
            for kind, found in runs.items()
        }
        for kind, row in rows.items():
            row["folder"] = folder_bytes(work / kind)
        print(f"\n{args.threads} threads, batch {args.batch} x {args.length}, {args.new_tokens} new tokens")
        print(table(rows))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        folder, *numbers = sys.argv[2:]
        print(json.dumps(measure_in_process(folder, *map(int, numbers))))
    else:
        main()
