"""paddle_glm's exported graph on Paddle Inference, in Python; what its other engines share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import dygraph
from benchmarks.peers.contract import Engine, Shape

PACKAGES: tuple[str, ...] = ()
FROM_SOURCE: tuple[str, ...] = ()
BUILD: dict[str, str] = {}
KINDS = dygraph.KINDS


def write(folder: Path, kind: str, shape: Shape) -> None:
    import paddle

    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.export import export_model

    paddle.set_device("cpu")
    dygraph.write(folder, kind, shape)
    source = folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModel.from_pretrained(source, dtype="float16")  # as the files have it
    export_model(model, tokenizer, folder / "graph")
    shutil.rmtree(source)


def write_onnx(folder: Path, kind: str, shape: Shape, target: str) -> None:
    """An ONNX export for the engine `target`."""
    from paddle_glm.main import main

    dygraph.write(folder, kind, shape)
    source = folder / "model"
    words = ["--model_name_or_path", str(source), "--output_path", str(folder / "graph")]
    if code := main(["export", *words, "--format", "onnx", "--target", target, "--dtype", "float16"]):
        raise SystemExit(code)
    shutil.rmtree(source)


class Exported:
    def __init__(self, folder: Path, threads: int, backend: str = "paddle") -> None:
        from paddle_glm.auto.backend import open_backend

        self.backend: Any = open_backend(backend, folder, device="cpu", cpu_threads=threads)

    def prefill(self, ids: list[int]) -> Any:
        array = np.array([ids], np.int64)
        return self.backend.prefill(array, np.ones_like(array))[0]

    def decode(self, token: int) -> Any:
        return self.backend.decode(np.array([token], np.int64))[0]


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return Exported(folder / "graph", threads)
