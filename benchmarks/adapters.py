"""Time of a decoding step whose rows have adapters, against the model alone.

    python benchmarks/adapters.py [--layers 4 --hidden 4096 --bits 4 --rows 8 --rank 8 --threads 2]

Layers of ChatGLM2-6B's shapes by default, random weights, LoRA adapters of all linear layers, and prefixes of
128 tokens. The cases take turns; time is that of the processors, of all threads. "alternating": between two
steps a prompt of one token is read without an adapter, so that the hooks come and go. "merged" (--bits 0):
another model, into whose weights an adapter was merged.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_glm.config import ModelConfig
from paddle_glm.doctor.random_models import random_model
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.lora import attach_lora, merge_and_unload, use_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.peft.row_adapters import NamedAdapters

ADAPTERS = 8
PROMPT, PREFIX = 64, 128


def make_model(args: argparse.Namespace) -> CausalLM:
    heads = args.hidden // 128
    config = ModelConfig(
        family="chatglm2",
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=heads,
        num_key_value_heads=min(2, heads),
        multi_query_attention=True,
        head_dim=128,
        ffn_hidden_size=args.ffn or args.hidden * 107 // 32,
        vocab_size=8000,
        max_sequence_length=2048,
        quantization_bit=args.bits,
        quantization_group_size=128 if args.bits == 4 else None,
    )
    return random_model(config, "bfloat16" if args.bfloat16 else "float32")


def open_merged(args: argparse.Namespace) -> DygraphBackend:
    model = make_model(args)
    attach_lora(model, LoraConfig(rank=args.rank))
    merge_and_unload(model)
    return open_paged(model)


def open_backend(args: argparse.Namespace, folder: Path) -> DygraphBackend:
    model = make_model(args)
    for number in range(ADAPTERS):
        (folder / str(number)).mkdir()
        attach_lora(model, LoraConfig(rank=args.rank), name=str(number)).save(folder / str(number))
    use_lora(model, None)
    (folder / "prefix").mkdir()
    attach_prefix(make_model(args), PREFIX, projection=False).save(folder / "prefix")
    backend = open_paged(model)
    backend.adapters = adapters = NamedAdapters(model)
    for number in range(ADAPTERS):
        adapters.load(str(number), folder / str(number))
    for number in range(ADAPTERS):
        adapters.load(f"prefix {number}", folder / "prefix")
    return backend


def open_paged(model: CausalLM) -> DygraphBackend:
    backend = DygraphBackend(model)
    backend.limit_cache(1 << 30)
    return backend


def start(backend: DygraphBackend, adapters: list[str | None]) -> None:
    """A running batch in which row i has `adapters[i]`."""
    for row, adapter in enumerate(adapters):
        ids = np.full((1, PROMPT), 5 + row)
        reading = backend.start_reading(ids, np.ones_like(ids), None, adapter)
        backend.read(reading, PROMPT)
        backend.join(reading, replace=row == 0)


def step_seconds(backend: DygraphBackend, adapters: list[str | None], alternating: bool, steps: int) -> float:
    """The median of so many steps."""
    start(backend, adapters)
    tokens, found = np.full(len(adapters), 7), []
    one = np.array([[7]])
    for _ in range(steps + 1):  # the first is not counted
        if alternating:
            backend.read(backend.start_reading(one, np.ones_like(one)), 1)
        begun = time.process_time()
        backend.decode(tokens)
        found.append(time.process_time() - begun)
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--ffn", type=int, default=0)
    parser.add_argument("--bits", type=int, default=4, choices=(0, 4, 8))
    parser.add_argument("--bfloat16", action="store_true", help="weights that are not quantised")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    paddle.set_device("cpu")
    paddle.base.core.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        backend = open_backend(args, Path(folder))
    cases: dict[str, list[str | None]] = {
        "the model alone": [None] * args.rows,
        "half of the rows with 1": [None if row % 2 else "0" for row in range(args.rows)],
        "1 adapter": ["0"] * args.rows,
    }
    for number in (2, 4, ADAPTERS):
        cases[f"{number} adapters"] = [str(row % number) for row in range(args.rows)]
    cases["4 adapters, alternating"] = cases["4 adapters"]
    cases[f"{ADAPTERS} prefixes"] = [f"prefix {row % ADAPTERS}" for row in range(args.rows)]
    backends = dict.fromkeys(cases, backend)
    if not args.bits:  # integers cannot be added to
        cases["merged"], backends["merged"] = [None] * args.rows, open_merged(args)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, adapters in cases.items():
            seconds = step_seconds(backends[name], adapters, name.endswith("alternating"), args.steps)
            times[name].append(seconds)
    alone = min(times["the model alone"])
    for name, found in times.items():
        print(f"{name:28} {1e3 * min(found):8.2f} ms of processors a step  {min(found) / alone:5.2f}x")


if __name__ == "__main__":
    main()
