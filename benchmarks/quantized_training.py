"""Training steps of LoRA and P-Tuning v2 beside a quantised model, with the native kernels and without them.

    python benchmarks/quantized_training.py --model_name_or_path FOLDER [--kinds lora prefix] [--json FILE]
    python benchmarks/quantized_training.py --layers 4    # int4 weights of 4 layers, made for the run

A step is forward, backward, clipping and AdamW of one row of random tokens, in float32, without recompute.
Each case is a process of its own; the median of its steps after the first counts. Seconds of CPU time are
those of all threads: on a busy machine their ratio is the better one.
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
from benchmarks.peers import dygraph  # noqa: E402

KINDS = ("lora", "prefix")
# Name -> value of PADDLE_GLM_KERNELS.
VARIANTS = {"native": "", "Paddle's operators": "0"}
PREFIX_LENGTH = 128


def worker(folder: Path, kind: str, tokens: int, steps: int) -> dict[str, float]:
    """Seconds per step of this process, and its peak memory in bytes."""
    import paddle

    from benchmarks.chat_engines import memory
    from paddle_glm.allocator import keep_freed_memory
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.hardware import use_device
    from paddle_glm.models.family import family_of
    from paddle_glm.parallel.group import SINGLE_PROCESS
    from paddle_glm.peft.lora import attach_lora
    from paddle_glm.peft.lora_config import LoraConfig
    from paddle_glm.peft.prefix import attach_prefix
    from paddle_glm.training.gradients import HybridParallelClipGrad
    from paddle_glm.training.optimizer import FusedAdamW

    use_device("cpu", cpu_threads=int(os.environ["OMP_NUM_THREADS"]))
    paddle.set_flags({"FLAGS_use_stride_kernel": False})  # as `training.initialize` does
    keep_freed_memory()
    model = AutoModel.from_pretrained(folder)
    if kind == "lora":
        adapter = attach_lora(model, LoraConfig())
    else:
        adapter = attach_prefix(model, PREFIX_LENGTH, projection=False)
    adapter.freeze_base_model()
    model.train()
    trained = dict(adapter.parameters())
    table = {**family_of(model.config).parameters(model.config), **adapter.specs}
    names = {parameter.name: name for name, parameter in trained.items()}
    optimizer = FusedAdamW(
        learning_rate=1e-4,
        parameters=list(trained.values()),
        grad_clip=HybridParallelClipGrad(1.0, table, names, SINGLE_PROCESS),
    )
    ids = paddle.randint(5, 60000, [1, tokens])
    wall, cpu = [], []
    for _ in range(1 + steps):
        started, used = time.perf_counter(), time.process_time()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    medians = {"seconds": statistics.median(wall[1:]), "cpu": statistics.median(cpu[1:])}
    return {**medians, "peak": float(memory("VmHWM"))}


def run(folder: Path, kind: str, variant: str, args: argparse.Namespace) -> dict[str, float]:
    words = [sys.executable, __file__, "--worker", str(folder), kind, str(args.tokens), str(args.steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(ROOT)}
    environment["PADDLE_GLM_KERNELS"] = VARIANTS[variant]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: seconds per step, and how many times as fast the first variant is."""
    first = next(iter(VARIANTS))
    lines = ["| | | s per step | CPU s per step | peak GB | native is faster, CPU |", "|---" * 6 + "|"]
    for kind, variants in found.items():
        for variant, row in variants.items():
            ratio = row["cpu"] / variants[first]["cpu"]
            cells = f"{row['seconds']:.2f} | {row['cpu']:.2f} | {row['peak'] / 1e9:.2f} | {ratio:.1f}"
            lines.append(f"| {kind} | {variant} | {cells} |")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", type=Path, help="default: random int4 weights")
    parser.add_argument("--layers", type=int, default=4, help="of the random weights")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="after the first")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    with dygraph.model_folder(args.model_name_or_path, args.layers) as folder:
        found: dict[str, dict[str, dict[str, float]]] = {}
        for kind in args.kinds:
            for variant in VARIANTS:
                found.setdefault(kind, {})[variant] = run(folder, kind, variant, args)
                print(kind, variant, found[kind][variant], flush=True)
    print(f"\n{processor()}, {args.threads} threads, a row of {args.tokens} tokens")
    print(table(found))
    if args.json is not None:
        text = json.dumps({"processor": processor(), "tokens": args.tokens, "runs": found}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:6]))))
    else:
        main()
