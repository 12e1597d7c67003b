"""Time per token and peak memory while decoding behind contexts of several lengths, in dygraph.

    python benchmarks/decode.py --layers 4 --threads 2 --json decode.json
    python benchmarks/decode.py --family chatglm --layers 4 --vocab 8000

The model has ChatGLM2-6B's shapes (or ChatGLM-6B's), few layers and random weights. A step reads all
weights, and the keys and values of its context. GB/s: the bytes of keys and values that a context has more
than the shortest one, by the time that it takes more; both times are the best, which other work on the
machine disturbs least. Peak memory is what Paddle's allocator holds above the weights while decoding.
Scratch is what a step behind one token holds for itself (half precision weights are widened on a CPU); the
last column is the rest of the peak in units of the keys and values themselves. Each dtype has a process of
its own.
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

PREFILL_CHUNK = 512  # tokens: attention scores of a whole long prompt would take more memory than all else


def measure(args: argparse.Namespace, dtype: str) -> list[dict[str, float]]:
    """One row for each context, from this process."""
    import numpy as np
    import paddle

    from paddle_glm.auto.model import AutoModel
    from paddle_glm.config import ModelConfig
    from paddle_glm.models.dygraph import DygraphBackend

    paddle.set_device(args.device)
    paddle.base.core.set_num_threads(args.threads)
    last = max(args.contexts) + args.steps + 1
    key_value_heads = args.key_value_heads or args.heads
    config = ModelConfig(
        family=args.family,
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.heads,
        num_key_value_heads=key_value_heads,
        multi_query_attention=args.family != "chatglm",
        head_dim=args.hidden // args.heads,
        ffn_hidden_size=args.ffn,
        vocab_size=args.vocab,
        max_sequence_length=last,
        mask_token_id=args.vocab - 4,
        gmask_token_id=args.vocab - 3,
        bos_token_id=args.vocab - 2,
        position_encoding_2d=args.family == "chatglm",
    )
    model = AutoModel.from_config(config, dtype=dtype)
    weights = allocated(args.device)
    ids = np.random.default_rng(0).integers(3, args.vocab - 5, (args.batch, last))
    if not model.is_causal:  # a prompt of ChatGLM-6B holds [gMASK] <sop>
        ids[:, :2] = config.gmask_token_id, config.bos_token_id
    width = 2 if dtype != "float32" and args.device != "cpu" else 4
    per_token = 2 * args.layers * args.batch * key_value_heads * config.head_dim * width
    backend = DygraphBackend(model)
    backend.prefill(ids[:, :2], np.ones_like(ids[:, :2]))
    backend.decode(ids[:, 2])
    reset_peak(args.device)
    backend.decode(ids[:, 3])
    scratch = peak(args.device) - allocated(args.device)
    rows: list[dict[str, float]] = []
    for context in sorted(args.contexts):
        if model.is_causal:
            length = len(backend.past.input_ids) if rows else 0
            for stop in [*range(length + PREFILL_CHUNK, context, PREFILL_CHUNK), context]:
                backend = DygraphBackend(model, backend.past if stop > PREFILL_CHUNK else None)
                backend.prefill(ids[:, :stop], np.ones_like(ids[:, :stop]))
        else:
            backend.prefill(ids[:, :context], np.ones_like(ids[:, :context]))
        times = []
        reset_peak(args.device)
        for place in range(context, context + args.steps):
            start = time.perf_counter()
            backend.decode(ids[:, place])
            times.append(time.perf_counter() - start)
        rows.append(
            {
                "context": context,
                "median": statistics.median(times),
                "best": min(times),
                "cache": per_token * (context + args.steps),
                "weights": weights,
                "scratch": scratch,
                "peak": peak(args.device) - weights,
            }
        )
    return rows


def allocated(device: str) -> int:
    """Bytes that Paddle's allocator holds for tensors."""
    import paddle

    if device == "cpu":
        return paddle.base.core.host_memory_stat_current_value("Allocated", 0)
    return paddle.device.cuda.memory_allocated()


def peak(device: str) -> int:
    import paddle

    if device == "cpu":
        return paddle.base.core.host_memory_stat_peak_value("Allocated", 0)
    return paddle.device.cuda.max_memory_allocated()


def reset_peak(device: str) -> None:
    import paddle

    if device == "cpu":
        paddle.base.core.host_memory_stat_reset_peak_value("Allocated", 0)
    else:
        paddle.device.cuda.reset_max_memory_allocated()


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown, one row per dtype and context."""
    lines = [
        "| weights | context | ms per token | best | cache MB | GB/s | peak MB | scratch MB | of the cache |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for dtype, rows in results.items():
        first = rows[0]
        for row in rows:
            added = row["cache"] - first["cache"], row["best"] - first["best"]
            rate = f"{added[0] / added[1] / 1e9:.1f}" if added[0] and added[1] > 0 else ""
            rest = (row["peak"] - row["scratch"]) / row["cache"]
            lines.append(
                f"| {dtype} | {row['context']} | {row['median'] * 1e3:.1f} "
                f"| {row['best'] * 1e3:.1f} | {row['cache'] / 1e6:.1f} | {rate} "
                f"| {row['peak'] / 1e6:.1f} | {row['scratch'] / 1e6:.1f} | {rest:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", default="chatglm2", choices=("chatglm", "chatglm2"))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key_value_heads", type=int, help="default: 2, as many as heads for chatglm")
    parser.add_argument("--ffn", type=int, help="default: 13696, 16384 for chatglm")
    parser.add_argument("--vocab", type=int, default=65024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--steps", type=int, default=32, help="tokens decoded at each context")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.ffn = args.ffn or {"chatglm": 16384, "chatglm2": 13696}[args.family]
    if args.family == "chatglm2" and args.key_value_heads is None:
        args.key_value_heads = 2
    if args.measure:
        print(json.dumps(measure(args, args.measure)))
        return
    results = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    for dtype in args.dtypes:
        command = [sys.executable, *sys.argv, "--measure", dtype]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        results[dtype] = json.loads(done.stdout.splitlines()[-1])
    print(table(results))
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
