"""Decode time per step and start-up time of the C++ program, compared with Python, on one exported graph.

    python benchmarks/cpp_infer.py --program cpp_infer/build/paddle_glm_infer --hidden_size 512 --num_layers 8

Makes an untrained model of that size, exports it, and asks both for the same greedy answer in turns. A step
is everything between two tokens: positions, mask, the graph, the cache's copy, the choice of the token. The
numbers are medians over the runs; each run's own is the mean over its steps.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Of the graph that an engine reads.
GRAPH_FORMATS = {"paddle": "paddle", "onnxruntime": "onnx", "openvino": "onnx"}
QUESTION = "类型#裤*版型#宽松"

# Prints seconds until ready, seconds per step and the tokens.
PYTHON_PROGRAM = """
import sys, time
start = time.perf_counter()
from paddle_glm.auto.engine import open_engine
from paddle_glm.chat_template import render
from paddle_glm.generation import GenerationParams
from paddle_glm.generation.loop import generate
from paddle_glm.generation.session import pad_left, with_special_token_ids
folder, question, count, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
engine = open_engine(folder, sys.argv[5], cpu_threads=threads)
template = engine.tokenizer.template
params = GenerationParams(do_sample=False, max_new_tokens=count)
params = with_special_token_ids(params, engine.tokenizer, template)
prompt = render(template, engine.tokenizer, [{"role": "user", "content": question}]).input_ids
ready = time.perf_counter()
steps = generate(engine.backend, *pad_left([prompt], 0), params)
tokens = [int(next(steps)[0])]
first = time.perf_counter()
tokens += [int(column[0]) for column in steps]
ended = time.perf_counter()
print(ready - start, (ended - first) / (len(tokens) - 1), *tokens)
"""


def make_model(folder: Path, args: argparse.Namespace) -> Path:
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.export import export_model
    from paddle_glm.tiny.checkpoint import write_checkpoint
    from paddle_glm.tiny.grammar import make_rows

    texts = [text for row in make_rows(300) for text in row.values()]
    sizes = {"num_layers": args.num_layers, "hidden_size": args.hidden_size, "num_attention_heads": 8}
    write_checkpoint(folder / "model", texts, ffn_hidden_size=args.hidden_size * 8 // 3 // 64 * 64, **sizes)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    bits, group = args.quantization_bit, args.quantization_group_size
    model = AutoModel.from_pretrained(folder / "model", quantization_bit=bits, quantization_group_size=group)
    export_model(model, tokenizer, folder / "exported", format=GRAPH_FORMATS[args.engine])
    return folder / "exported"


def run_command(words: list[str], threads: int) -> tuple[str, str, float]:
    """Run a command; return its standard output, standard error and seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    result = subprocess.run(words, capture_output=True, check=True, env=environment)
    return result.stdout.decode(), result.stderr.decode(), time.perf_counter() - started


def run_python(exported: Path, args: argparse.Namespace) -> dict[str, Any]:
    numbers = [str(args.tokens), str(args.threads)]
    words = [sys.executable, "-c", PYTHON_PROGRAM, str(exported), QUESTION, *numbers, args.engine]
    out, _, seconds = run_command(words, args.threads)
    ready, step, *tokens = out.split()
    return {"ready": float(ready), "step": float(step), "whole": seconds, "ids": [int(one) for one in tokens]}


def run_cpp(exported: Path, args: argparse.Namespace) -> dict[str, Any]:
    rows = exported.parent / "rows.json"
    rows.write_text(json.dumps([{"content": QUESTION}]), encoding="utf-8")
    flags = {
        "model_dir": exported,
        "input_file": rows,
        "max_new_tokens": args.tokens,
        "num_threads": args.threads,
        "engine": args.engine,
    }
    words = [str(args.program), "--benchmark"]
    words += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    out, err, seconds = run_command(words, args.threads)
    numbers = {name: float(re.findall(pattern, err)[0]) for name, pattern in PATTERNS.items()}
    return {**numbers, "step": numbers["step"] / 1e3, "whole": seconds, "ids": json.loads(out)["ids"]}


PATTERNS = {
    "ready": r"load ([\d.]+) s",
    "step": r"([\d.]+) ms per step",
    "memory": r"peak memory ([\d.]+) MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default=ROOT / "cpp_infer" / "build" / "paddle_glm_infer")
    parser.add_argument("--num_layers", type=int, default=8)
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--engine", default="paddle", choices=GRAPH_FORMATS)
    parser.add_argument("--quantization_bit", type=int, default=0, choices=(0, 4, 8))
    parser.add_argument("--quantization_group_size", type=int)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        exported = make_model(Path(scratch), args)
        runs = [(run_python(exported, args), run_cpp(exported, args)) for _ in range(args.runs)]
    for python, cpp in runs:
        # C++ omits the end token.
        assert cpp["ids"] == python["ids"][: len(cpp["ids"])] and len(python["ids"]) - len(cpp["ids"]) < 2
    median = {
        f"{side} {name}": statistics.median(pair[index][name] for pair in runs)
        for index, side in enumerate(("Python", "C++"))
        for name in ("ready", "step", "whole")
    }
    tokens = len(runs[0][0]["ids"])
    print(
        f"{args.num_layers} layers of {args.hidden_size}, {args.quantization_bit or 32} bits, engine "
        f"{args.engine}, {tokens} tokens, {args.threads} threads"
    )
    for side in ("Python", "C++"):
        step, ready, whole = (median[f"{side} {name}"] for name in ("step", "ready", "whole"))
        print(f"{side:<7} {step * 1e3:8.3f} ms per step   ready in {ready:.3f} s   whole run {whole:.3f} s")
    print(f"a step in C++ takes {median['C++ step'] / median['Python step']:.3f} of Python's")
    print(f"C++ peak memory {max(pair[1]['memory'] for pair in runs):.0f} MB")


if __name__ == "__main__":
    main()
