"""paddle_glm in dygraph, from a folder with the released files' layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.peers.contract import Engine, Shape

PACKAGES: tuple[str, ...] = ()
FROM_SOURCE: tuple[str, ...] = ()
BUILD: dict[str, str] = {}
# "-embeddings": the embedding and the LM head too, as in most engines' files.
KINDS = ("int4", "int4-embeddings", "int8", "int8-embeddings", "float16")


def write(folder: Path, kind: str, shape: Shape) -> None:
    from paddle_glm.tiny.checkpoint import write_checkpoint_like
    from paddle_glm.tiny.grammar import make_rows

    texts = [text for row in make_rows(60) for text in row.values()]
    write_checkpoint_like(
        folder / "model",
        texts,
        "chatglm2-6b",
        400,
        num_layers=shape.layers,
        quantization_bit=None if kind == "float16" else int(kind[3]),
        quantization_embeddings=kind.endswith("-embeddings"),
    )


@contextmanager
def model_folder(given: Path | None, layers: int) -> Iterator[Path]:
    """The given folder, or one of random int4 weights that is removed at the end."""
    if given is not None:
        yield given
        return
    with TemporaryDirectory() as parent:
        write(Path(parent), "int4", Shape(layers=layers))
        yield Path(parent) / "model"


class Dygraph:
    def __init__(self, folder: Path, threads: int) -> None:
        import paddle

        from paddle_glm.auto.model import AutoModel
        from paddle_glm.models.dygraph import DygraphBackend

        paddle.base.core.set_num_threads(threads)
        self.backend = DygraphBackend(AutoModel.from_pretrained(folder))

    def prefill(self, ids: list[int]) -> Any:
        array = np.array([ids], np.int64)
        return self.backend.prefill(array, np.ones_like(array))[0]

    def decode(self, token: int) -> Any:
        return self.backend.decode(np.array([token], np.int64))[0]


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return Dygraph(folder / "model", threads)
