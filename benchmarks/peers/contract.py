"""What an engine's file has, and the shape of the model that all of them run.

A file of this folder, named like the engine, has

- `PACKAGES`: pinned requirements of its environment; with none it runs in the project's own;
- `FROM_SOURCE`: names of those that are compiled for this machine, with the environment variables `BUILD`;
- `KINDS`: names of its weight formats;
- `write(folder, kind, shape)`: random weights, into an empty folder;
- `open_engine(folder, kind, shape, threads, context)`: an `Engine` for so many tokens.

Functions import the environment's packages, except NumPy, since the driver reads these files without them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Shape:
    """Sizes of a ChatGLM2; the default is ChatGLM2-6B's."""

    layers: int = 28
    hidden: int = 4096
    ffn: int = 13696
    heads: int = 32
    groups: int = 2  # of keys and values
    head_dim: int = 128
    vocab: int = 65024
    positions: int = 32768
    rms_eps: float = 1e-5

    @property
    def qkv(self) -> int:
        """Outputs of the fused projection of queries, keys and values."""
        return (self.heads + 2 * self.groups) * self.head_dim

    @property
    def rotary(self) -> int:
        """Dimensions of a head that are rotated."""
        return self.head_dim // 2

    def small(self) -> "Shape":
        """As many layers, narrow; widths are multiples of the same powers of two."""
        return replace(self, hidden=512, ffn=640, heads=4, vocab=512)


class Engine(Protocol):
    """A model in memory, with one conversation of token ids."""

    def prefill(self, ids: list[int]) -> Any:
        """Start over with these tokens; returns the last one's logits, [vocab], or None if it keeps them."""

    def decode(self, token: int) -> Any:
        """Append a token; returns its logits, like `prefill`."""


class EngineFile(Protocol):
    """A module of this folder."""

    PACKAGES: tuple[str, ...]
    FROM_SOURCE: tuple[str, ...]
    BUILD: dict[str, str]
    KINDS: tuple[str, ...]

    def write(self, folder: Path, kind: str, shape: Shape) -> None: ...

    def open_engine(self, folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine: ...
