"""Limits of this machine: read bandwidth, and rates of products in float32, bfloat16 and int8.

    python benchmarks/machine.py --threads 1 2 --json machine.json

Compiles machine.cc with g++. Bandwidth is that of adding up a buffer much larger than the cache. Products are
made in registers; a multiplication and an addition are two operations. Rates are the best of all rounds,
since other work on the machine only slows them; the JSON file has the medians too.
"""

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cc")
# Name -> a rate for each round, GB/s or GFLOP/s; none where the processor lacks it.
Rates = dict[str, list[float]]


def compile_program(program: Path) -> None:
    words = ["g++", "-O3", "-std=c++17", "-pthread", str(SOURCE), "-o", str(program)]
    subprocess.run(words, check=True)


def parse(output: str) -> Rates:
    """What machine.cc prints."""
    named = (line.rpartition(":") for line in output.splitlines())
    return {name: [float(word) for word in rates.split()] for name, _, rates in named}


def rates(program: Path, threads: int, gib: float, rounds: int) -> Rates:
    """Run the compiled machine.cc."""
    words = [str(program), str(threads), str(int(gib * 2**30)), str(rounds)]
    return parse(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout)


def processor() -> str:
    """The processor's name, as /proc/cpuinfo gives it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(results: dict[int, Rates]) -> str:
    """Markdown: a row per limit, a column per number of threads."""
    heads = [f"{threads} thread{'s' if threads > 1 else ''}" for threads in results]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name in next(iter(results.values())):
        cells = []
        for rates in results.values():
            unit = "GB/s" if name == "read" else "GOP/s" if name.startswith("int8") else "GFLOP/s"
            cells.append(f"{max(rates[name]):.0f} {unit}" if rates[name] else "not supported")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--gib", type=float, default=2.0, help="size of the buffer that is read")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "machine"
        compile_program(program)
        results = {one: rates(program, one, args.gib, args.rounds) for one in args.threads}
    print(processor())
    print(table(results))
    if args.json is not None:
        rows = {
            str(threads): {
                name: {"best": max(found), "median": statistics.median(found)} if found else None
                for name, found in rates.items()
            }
            for threads, rates in results.items()
        }
        report = {"processor": processor(), "threads": rows}
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
