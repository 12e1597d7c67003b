"""Time of the kernels alone: products of a ChatGLM2-6B layer with quantised weights.

    python benchmarks/kernels.py --weights 4:128 8:0 --rows 1 8 128 512 --threads 1 2
    python benchmarks/kernels.py --isas avx2 avx512 --arithmetics int8 float32 --json kernels.json

Prints the machine's limits too. Weights are random, in kernel order, in memory as a model's parameters are;
each call takes another copy, so that few rows read them from memory and not from the cache. The arithmetics,
instruction sets, threads and numbers of rows take turns. Medians over the calls count, and the best call,
which other work on the machine disturbs least; the call of an operator, 5 to 10 microseconds, is part of it.
A multiplication and an addition are two operations; GB/s count the weights and scales.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from paddle import Tensor, nn  # noqa: E402

from benchmarks import machine  # noqa: E402
from paddle_glm.kernels import operators  # noqa: E402
from paddle_glm.kernels.library import isa, kernel_library  # noqa: E402
from paddle_glm.numpy_interop import cpu_view  # noqa: E402
from paddle_glm.parallel.layers import new_parameter  # noqa: E402

# Outputs and inputs of the products of a layer.
SHAPES = {
    "query_key_value": (4608, 4096),
    "dense": (4096, 4096),
    "dense_h_to_4h": (27392, 4096),
    "dense_4h_to_h": (4096, 13696),
}
UNITS = ("ms", "GB/s", "TFLOP/s")
CACHE_BYTES = 256 << 20  # more than any cache: so much passes between two uses of a weight


class Format(NamedTuple):
    """Bits, and inputs per scale; 0: one scale per output."""

    bits: int
    group_size: int

    @staticmethod
    def parse(word: str) -> "Format":
        bits, _, group_size = word.partition(":")
        return Format(int(bits), int(group_size or 0))

    def __str__(self) -> str:
        return f"int{self.bits}, " + (
            f"groups of {self.group_size}" if self.group_size else "one scale per output"
        )


class Case(NamedTuple):
    isa: str
    arithmetic: str
    threads: int
    rows: int
    shape: str


class Weight(NamedTuple):
    values: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        return cpu_view(self.values).nbytes + cpu_view(self.scale).nbytes


def random_weight(shape: tuple[int, int], kind: Format, random: np.random.Generator) -> Weight:
    """A weight in kernel order; any bytes are one."""
    outputs, inputs = shape
    groups = (inputs // kind.group_size,) if kind.group_size else ()
    layer = nn.Layer()
    weight = Weight(
        new_parameter(layer, (outputs, inputs * kind.bits // 8), "int8"),
        new_parameter(layer, (outputs, *groups), "float32"),
    )
    cpu_view(weight.values)[...] = random.integers(-128, 128, weight.values.shape, np.int8)
    cpu_view(weight.scale)[...] = random.random(weight.scale.shape, np.float32) / 1000
    return weight


def force_isa(name: str) -> None:
    library = kernel_library()
    if library is None or not library.paddle_glm_set_isa(name.encode()):
        raise SystemExit(f"{name}: this processor or build has no such kernels")


def measure(kind: Format, cases: list[Case], rounds: int) -> tuple[dict[Case, list[float]], dict[str, int]]:
    """Seconds of each call, and the bytes of each weight."""
    random = np.random.default_rng(0)
    seconds: dict[Case, list[float]] = defaultdict(list)
    sizes = {}
    for name in dict.fromkeys(case.shape for case in cases):
        weights = [random_weight(SHAPES[name], kind, random)]
        sizes[name] = weights[0].nbytes
        weights += [random_weight(SHAPES[name], kind, random) for _ in range(CACHE_BYTES // sizes[name])]
        of_shape = [case for case in cases if case.shape == name]
        inputs = {
            rows: paddle.to_tensor(random.standard_normal((rows, SHAPES[name][1]), np.float32))
            for rows in {case.rows for case in of_shape}
        }
        for number, case in product(range(rounds + 1), of_shape):
            force_isa(case.isa)
            paddle.base.core.set_num_threads(case.threads)
            for weight in weights if case.rows < 32 else weights[:2]:
                started = time.perf_counter()
                operators.quantized_linear(inputs[case.rows], *weight, kind.bits, case.arithmetic)
                if number:  # the first round warms up
                    seconds[case].append(time.perf_counter() - started)
    return seconds, sizes


def rates(case: Case, seconds: list[float], nbytes: int) -> dict[str, float]:
    outputs, inputs = SHAPES[case.shape]
    best, median = min(seconds), statistics.median(seconds)
    operations = 2 * case.rows * outputs * inputs
    return {
        "ms": median * 1e3,
        "best ms": best * 1e3,
        "GB/s": nbytes / median / 1e9,
        "best GB/s": nbytes / best / 1e9,
        "TFLOP/s": operations / median / 1e12,
        "best TFLOP/s": operations / best / 1e12,
    }


def layer(found: dict[Case, dict[str, float]]) -> dict[Case, dict[str, float]]:
    """All products of a layer together: times add up."""
    columns: dict[Case, list[tuple[Case, dict[str, float]]]] = defaultdict(list)
    for case, row in found.items():
        columns[case._replace(shape="layer")].append((case, row))
    totals = {}
    for case, parts in columns.items():
        row = {name: sum(one[name] for _, one in parts) for name in ("ms", "best ms")}
        for prefix in ("", "best "):
            for unit in ("GB/s", "TFLOP/s"):
                amount = sum(one[f"{prefix}{unit}"] * one[f"{prefix}ms"] for _, one in parts)
                row[f"{prefix}{unit}"] = amount / row[f"{prefix}ms"]
        totals[case] = row
    return totals


def table(found: dict[Case, dict[str, float]]) -> str:
    heads = [*Case._fields, *(head for unit in UNITS for head in (unit, "best"))]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for case, row in found.items():
        cells = [
            f"{row[name]:.3g}" for name in ("ms", "best ms", "GB/s", "best GB/s", "TFLOP/s", "best TFLOP/s")
        ]
        lines.append(f"| {' | '.join([*map(str, case), *cells])} |")
    return "\n".join(lines)


def limits(threads: list[int]) -> str:
    """Read bandwidth and product rates, by machine.cc."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "machine"
        machine.compile_program(program)
        return machine.table({number: machine.rates(program, number, 2.0, 7) for number in threads})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [Format(4, 128), Format(4, 32), Format(8, 0)]
    parser.add_argument("--weights", type=Format.parse, nargs="+", default=default, metavar="BITS:GROUP_SIZE")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 32, 128, 512])
    parser.add_argument("--arithmetics", nargs="+", default=["int8"], choices=("int8", "bfloat16", "float32"))
    parser.add_argument("--isas", nargs="+", default=[isa()])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    print(machine.processor())
    print(limits(args.threads))
    report: list[dict[str, Any]] = []
    for kind in args.weights:
        cases = [Case(*one) for one in product(args.isas, args.arithmetics, args.threads, args.rows, SHAPES)]
        seconds, sizes = measure(kind, cases, args.rounds)
        found = {case: rates(case, seconds[case], sizes[case.shape]) for case in cases}
        found |= layer(found)
        print(f"\n{kind}\n{table(found)}", flush=True)
        report += [{"weights": str(kind), **case._asdict(), **row} for case, row in found.items()]
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
