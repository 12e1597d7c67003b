"""paddle_glm's exported graph in the C++ program's engine; first `bash tools/build_cpp.sh`."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import exported
from benchmarks.peers.contract import Engine, Shape

PACKAGES: tuple[str, ...] = ()
FROM_SOURCE: tuple[str, ...] = ()
BUILD: dict[str, str] = {}
KINDS = exported.KINDS
ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "cpp_infer" / "build"


def write(folder: Path, kind: str, shape: Shape) -> None:
    if not (BUILT / "libpaddle_glm_engine_paddle.so").exists():
        raise SystemExit(f"{BUILT} has no engine: bash tools/build_cpp.sh")
    exported.write(folder, kind, shape)
    flags = [
        "-std=c++17",
        "-O2",
        "-shared",
        "-fPIC",
        *(f"-I{ROOT / 'cpp_infer' / name}" for name in ("src", "include")),
    ]
    link = ["-L", str(BUILT), "-lpaddle_glm", f"-Wl,-rpath,{BUILT}"]
    source = ROOT / "benchmarks" / "cpp_engine.cc"
    subprocess.run(["c++", *flags, str(source), "-o", str(folder / "engine.so"), *link], check=True)


class Cpp:
    def __init__(self, folder: Path, threads: int, vocab: int) -> None:
        self.library = ctypes.CDLL(str(folder / "engine.so"))
        self.library.bench_open.restype = ctypes.c_void_p
        opened = self.library.bench_open(str(folder / "graph").encode(), threads)
        if opened is None:
            raise SystemExit(1)
        self.opened = ctypes.c_void_p(opened)
        self.logits = np.empty(vocab, np.float32)
        self.out = ctypes.c_void_p(self.logits.ctypes.data)

    def prefill(self, ids: list[int]) -> Any:
        array = np.array(ids, np.int64)
        place = ctypes.c_void_p(array.ctypes.data)
        self.library.bench_prefill(self.opened, place, ctypes.c_int64(len(ids)), self.out)
        return self.logits

    def decode(self, token: int) -> Any:
        self.library.bench_decode(self.opened, ctypes.c_int64(token), self.out)
        return self.logits


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return Cpp(folder, threads, shape.vocab)
