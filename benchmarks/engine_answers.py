"""Greedy answers of one model on every engine: the same tokens, and where not, by which logits.

    python benchmarks/engine_answers.py MODEL_FOLDER --exports FOLDER
    python benchmarks/engine_answers.py MODEL_FOLDER --exports FOLDER --engines paddle fastdeploy:openvino

MODEL_FOLDER is for example of `paddle-glm tiny --like chatglm2-6b --quantization_bit 4`. Each engine opens
the export made for it (FOLDER/paddle, onnxruntime, openvino; written where missing, as large as the model) in
a process of its own and answers the same prompts. The first engine is the reference: the others also compute
the logits of its tokens, so that logits of equal inputs are compared. At the first token of an answer that
differs, the gap between the two tokens in the reference is shown beside the differences of logits.

Seconds until open (imports left out), seconds of the first prompt, tokens per second behind it and peak
memory in GB (mapped file pages included) are of the same processes. --program measures the C++ program too,
whose tokens must be its Python engine's. --arithmetic float32 does not round activations to 8 bits; ONNX
Runtime has that for int4, FastDeploy on OpenVINO not at all.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.chat_engines import memory, read_files  # noqa: E402
from benchmarks.machine import processor  # noqa: E402

# Engine -> the export that it opens.
EXPORTS = {
    "paddle": "paddle",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "fastdeploy:onnx_runtime": "onnxruntime",
    "fastdeploy:openvino": "openvino",
}
QUESTIONS = ("你好，请介绍一下你自己。", "类型#裤*版型#宽松*风格#简约", "1 2 3 4 5")
BENCHMARK = {  # in what the C++ program prints for --benchmark
    "open": r"load ([\d.]+) s",
    "first": r"prefill \d+ tokens in ([\d.]+) s",
    "speed": r"s, ([\d.]+) tokens/s, [\d.]+ ms per step",
    "peak": r"peak memory ([\d.]+) MB",
}


def export(model: Path, folder: Path, arithmetic: str) -> None:
    """Write the export that `folder` is called after."""
    words = ["export", "--model_name_or_path", str(model), "--output_path", str(folder), "--device", "cpu"]
    if folder.name != "paddle":
        words += ["--format", "onnx", "--target", folder.name]
    if folder.name == "onnxruntime":
        words += ["--arithmetic", arithmetic]
    subprocess.run([sys.executable, "-m", "paddle_glm.main", *words], check=True, cwd=ROOT)


def answer(backend: Any, prompt: list[int], count: int, forced: list[int] | None) -> dict[str, Any]:
    """`count` greedy tokens, or the given ones, with the logits that each was taken from and the times."""
    started = time.perf_counter()
    ids = np.array([prompt], np.int64)
    logits = [np.array(backend.prefill(ids, np.ones_like(ids))[0])]
    moments = [time.perf_counter()]
    tokens = [int(logits[0].argmax())] if forced is None else forced[:1]
    while len(tokens) < count:
        logits.append(np.array(backend.decode(np.array(tokens[-1:], np.int64))[0]))
        tokens.append(int(logits[-1].argmax()) if forced is None else forced[len(tokens)])
    moments.append(time.perf_counter())
    return {
        "tokens": tokens,
        "logits": np.stack(logits),
        "prompt s": moments[0] - started,
        "steps s": moments[1] - moments[0],
    }


def run_child(words: str) -> None:
    """In the child: answer, and compute the logits of the reference's tokens; prints a line of JSON."""
    from paddle_glm.auto.engine import open_engine
    from paddle_glm.chat_template import render

    asked = json.loads(words)
    name, _, below = asked["engine"].partition(":")
    options = {"fastdeploy_engine": below} if below else {}
    started = time.perf_counter()
    engine = open_engine(asked["folder"], name, device="cpu", cpu_threads=asked["threads"], **options)
    opened = time.perf_counter() - started
    template, count = engine.tokenizer.template, asked["tokens"]
    messages = [[{"role": "user", "content": text}] for text in QUESTIONS]
    prompts = [render(template, engine.tokenizer, one).input_ids for one in messages]
    answers = [answer(engine.backend, prompt, count, None) for prompt in prompts]
    seconds = sum(one["steps s"] for one in answers)
    row = {"open": opened, "first": answers[0]["prompt s"], "peak": memory("VmHWM") / 1e9}
    row["speed"] = (count - 1) * len(answers) / seconds
    tokens = [one["tokens"] for one in answers]
    if asked["forced"]:
        answers = [
            answer(engine.backend, prompt, count, forced)
            for prompt, forced in zip(prompts, asked["forced"], strict=True)
        ]
    np.save(asked["logits"], np.stack([one["logits"] for one in answers]))
    print(json.dumps({**row, "tokens": tokens}))


def run_engine(engine: str, folder: Path, scratch: Path, forced: Any, args: Any) -> dict[str, Any]:
    """What `run_child` finds, and the logits, float32 [prompts, tokens, vocab]."""
    logits = scratch / f"{engine.replace(':', '-')}.npy"
    asked = {"engine": engine, "folder": str(folder), "threads": args.threads, "tokens": args.tokens}
    asked.update(forced=forced, logits=str(logits))
    done = run([sys.executable, __file__, "--child", json.dumps(asked)], args)
    return {**json.loads(done.stdout.splitlines()[-1]), "logits": np.load(logits)}


def run_program(engine: str, folder: Path, scratch: Path, args: Any) -> dict[str, Any]:
    """The C++ program's figures and tokens."""
    rows, found = scratch / "rows.json", scratch / "found.jsonl"
    rows.write_text("".join(json.dumps({"src": text}) + "\n" for text in QUESTIONS), encoding="utf-8")
    name, _, below = engine.partition(":")
    words = [str(args.program), "--model_dir", str(folder), "--engine", name, "--benchmark"]
    words += ["--input_file", str(rows), "--output_file", str(found), "--num_threads", str(args.threads)]
    words += ["--max_new_tokens", str(args.tokens), *(("--backend", below) if below else ())]
    text = run(words, args).stderr
    row: dict[str, Any] = {}
    for key, pattern in BENCHMARK.items():
        match = re.search(pattern, text)
        assert match is not None, text
        row[key] = float(match[1])
    lines = found.read_text(encoding="utf-8").splitlines()
    return {**row, "peak": row["peak"] / 1e3, "tokens": [json.loads(line)["ids"] for line in lines]}


def run(words: list[str], args: Any) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "GLOG_minloglevel": "2"}
    environment["PADDLE_GLM_ARITHMETIC"] = args.arithmetic
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:6])} ended with code {done.returncode}\n{done.stderr[-2000:]}")
    return done


def first_difference(one: list[int], other: list[int]) -> int | None:
    """The first place where two answers differ; a shorter one ends with a stop token, which is left out."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (left, right) in enumerate(pairs) if left != right), None)


def compare(reference: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """A line for all logits, and one for each answer that differs."""
    differences = np.abs(found["logits"] - reference["logits"]).max(axis=-1)  # of each token
    lines = [
        f"  logits of equal inputs differ by at most {np.median(differences):.4f} (median over tokens), "
        f"{differences.max():.4f} (worst token); their standard deviation is {reference['logits'].std():.4f}"
    ]
    pairs = zip(reference["tokens"], found["tokens"], strict=True)
    for prompt, (expected, tokens) in enumerate(pairs):
        place = first_difference(expected, tokens)
        if place is None:
            continue
        logits = reference["logits"][prompt, place]
        best, other = expected[place], tokens[place]
        lines.append(
            f"  prompt {prompt}: token {place} is {other} instead of {best}: the reference's logits are "
            f"{logits[best]:.4f} and {logits[other]:.4f}, a gap of {logits[best] - logits[other]:.4f}; "
            f"logits there differ by at most {differences[prompt, place]:.4f}"
        )
    return lines


def show(name: str, row: dict[str, Any], expected: Any, read: str) -> None:
    equal = "reference" if expected is None else f"{agreeing(expected, row['tokens'])} equal"
    print(
        f"{name:<28} open {row['open']:6.2f} s  first prompt {row['first']:6.2f} s  "
        f"{row['speed']:6.2f} tokens/s  peak {row['peak']:5.2f} GB  {equal}{read}",
        flush=True,
    )


def agreeing(expected: list[list[int]], found: list[list[int]]) -> str:
    """Answers without a difference, of all."""
    pairs = zip(expected, found, strict=True)
    return f"{sum(first_difference(*pair) is None for pair in pairs)} of {len(expected)}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("--exports", type=Path, required=True, help="where the exports are, or are written")
    parser.add_argument(
        "--engines", nargs="+", choices=EXPORTS, default=["paddle", "onnxruntime", "openvino"]
    )
    parser.add_argument("--program", type=Path, help="the C++ program, on the same engines")
    parser.add_argument("--arithmetic", choices=("int8", "float32"), default="int8")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def main() -> None:
    args = make_parser().parse_args()
    for name in dict.fromkeys(EXPORTS[engine] for engine in args.engines):
        if not (args.exports / name).is_dir():
            export(args.model, args.exports / name, args.arithmetic)
    print(f"{processor()}, {args.threads} threads, {args.model.parent.name}", flush=True)
    reference: dict[str, Any] | None = None
    with tempfile.TemporaryDirectory() as scratch:
        for engine in args.engines:
            folder = args.exports / EXPORTS[engine]
            started = time.perf_counter()
            size = read_files(folder)
            read = f"  (reading {size / 1e9:.2f} GB: {time.perf_counter() - started:.2f} s)"
            forced = reference and reference["tokens"]
            found = run_engine(engine, folder, Path(scratch), forced, args)
            show(engine, found, forced, read)
            if reference is None:
                reference = found
            else:
                print(*compare(reference, found), sep="\n", flush=True)
            if args.program is not None:
                row = run_program(engine, folder, Path(scratch), args)
                show(f"{engine}, C++", row, found["tokens"], "")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2])
    else:
        main()
