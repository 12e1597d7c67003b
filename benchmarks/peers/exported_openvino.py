"""paddle_glm's export for OpenVINO (`--target openvino`) on its backend, in Python."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers import dygraph, exported
from benchmarks.peers.contract import Engine, Shape

PACKAGES: tuple[str, ...] = ()
FROM_SOURCE: tuple[str, ...] = ()
BUILD: dict[str, str] = {}
KINDS = tuple(kind for kind in dygraph.KINDS if kind != "float16")
TARGET = "openvino"


def write(folder: Path, kind: str, shape: Shape) -> None:
    exported.write_onnx(folder, kind, shape, TARGET)


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return exported.Exported(folder / "graph", threads, TARGET)
