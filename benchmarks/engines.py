"""Prefill and decode time of each inference engine, on exports of one model.

    python benchmarks/engines.py --hidden_size 768 --num_layers 12 --batch_size 1 --threads 2

Makes an untrained model of that size and exports it in both formats. Each engine gets a process of its own
for each run, in turns, and answers the same prompts greedily; all must choose the same tokens. Numbers are
medians over the runs: seconds until ready, milliseconds of the prompt and of a step (the mean of a run's
steps: positions, mask, graph, cache, choice of the token), and the process's peak memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ENGINES = ("paddle", "onnxruntime", "openvino")
METRICS = ("ready", "prompt", "step", "memory")


def make_exports(folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Name of each engine -> the folder that it reads."""
    from paddle_glm.auto.backend import backends_for
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.backends.generation_meta import GRAPH_SUFFIXES
    from paddle_glm.export import export_model
    from paddle_glm.tiny.checkpoint import write_checkpoint
    from paddle_glm.tiny.grammar import make_rows

    texts = [text for row in make_rows(300) for text in row.values()]
    sizes = {"num_layers": args.num_layers, "hidden_size": args.hidden_size, "num_attention_heads": 8}
    ffn = args.hidden_size * 8 // 3 // 64 * 64
    write_checkpoint(folder / "model", texts, family=args.family, ffn_hidden_size=ffn, **sizes)
    group = args.quantization_group_size if args.quantization_bit else None
    model = AutoModel.from_pretrained(
        folder / "model",
        args.dtype,
        quantization_bit=args.quantization_bit,
        quantization_group_size=group,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for kind in GRAPH_SUFFIXES:
        meta = export_model(model, tokenizer, folder / kind, format=kind)
        print(f"{kind}: {sum(meta.files.values()) / 1e6:.1f} MB")
    return {name: folder / kind for kind in GRAPH_SUFFIXES for name in backends_for(kind) if name in ENGINES}


def run_child(name: str, folder: str, batch: int, tokens: int, threads: int) -> None:
    """Measure one engine in a child process; print metrics and tokens as one line of JSON."""
    started = time.perf_counter()
    from paddle_glm.auto.engine import open_engine
    from paddle_glm.chat_template import render
    from paddle_glm.generation import GenerationParams
    from paddle_glm.generation.loop import generate
    from paddle_glm.generation.session import pad_left

    engine = open_engine(folder, name, cpu_threads=threads)
    template = engine.tokenizer.template
    questions = ["类型#裤*版型#宽松" * (1 + row % 3) for row in range(batch)]
    prompts = [
        render(template, engine.tokenizer, [{"role": "user", "content": text}]).input_ids
        for text in questions
    ]
    params = GenerationParams(do_sample=False, max_new_tokens=tokens)  # no end token: all rows run to the end
    ready = time.perf_counter()
    steps = generate(engine.backend, *pad_left(prompts, 0), params)
    columns = [next(steps)]
    first = time.perf_counter()
    columns += list(steps)
    ended = time.perf_counter()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    found = (ready - started, (first - ready) * 1e3, (ended - first) * 1e3 / (tokens - 1), int(peak) / 1024)
    print(json.dumps({**dict(zip(METRICS, found, strict=True)), "ids": [one.tolist() for one in columns]}))


def run(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--child", name, str(folder)]
    words += [str(args.batch_size), str(args.tokens), str(args.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "GLOG_minloglevel": "2"}
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, env=environment, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="chatglm2")
    parser.add_argument("--num_layers", type=int, default=8)
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--quantization_bit", type=int, default=0, choices=(0, 4, 8))
    parser.add_argument("--quantization_group_size", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_exports(Path(scratch), args)
        runs = [{name: run(name, folders[name], args) for name in args.engines} for _ in range(args.runs)]
    for one in runs:
        assert len({str(found["ids"]) for found in one.values()}) == 1, "the engines chose different tokens"
    print(f"{args.num_layers} layers of {args.hidden_size}, batch {args.batch_size}, {args.threads} threads")
    for name in args.engines:
        ready, prompt, step, memory = (
            statistics.median(one[name][number] for one in runs) for number in METRICS
        )
        ratio = statistics.median(one[name]["step"] / one[args.engines[0]]["step"] for one in runs)
        print(
            f"{name:<12} ready in {ready:.2f} s   prompt {prompt:8.2f} ms   step {step:8.2f} ms "
            f"({ratio:.2f} of {args.engines[0]}'s)   {memory:.0f} MiB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()
