"""Products with float32 weights, native and Paddle's (MKL), by the number of rows.

    python benchmarks/float32_products.py --rows 1 2 4 8 16 64 --threads 1

Milliseconds of processor time, the best of many calls that take turns; weights of one layer of ChatGLM2-6B.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import paddle  # noqa: E402
from paddle import Tensor  # noqa: E402

from benchmarks.kernels import SHAPES  # noqa: E402
from paddle_glm.kernels import operators  # noqa: E402
from paddle_glm.kernels.library import isa, kernel_library  # noqa: E402


def native(x: Tensor, weight: Tensor) -> Tensor:
    return operators.float_linear(x, weight, "float32")


def mkl(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = paddle.matmul(x, weight, transpose_y=True)
    return product


def milliseconds(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    started = time.process_time()
    product(x, weight)
    return 1e3 * (time.process_time() - started)


@paddle.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8, 16, 64, 256])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if kernel_library() is None:
        raise SystemExit("no compiler for the kernels: apt-get install g++")
    paddle.base.core.set_num_threads(args.threads)
    print(f"| weight ({isa()}) | rows | native, ms | MKL, ms | ratio |\n|---|---|---|---|---|", flush=True)
    for name in args.shapes:
        weight = paddle.randn(SHAPES[name])
        for rows in args.rows:
            x = paddle.randn([rows, SHAPES[name][1]])
            calls = [
                [milliseconds(product, x, weight) for product in (native, mkl)]
                for _ in range(args.rounds + 1)
            ]
            ours, theirs = (min(column) for column in zip(*calls[1:], strict=True))
            print(f"| {name} | {rows} | {ours:.2f} | {theirs:.2f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
