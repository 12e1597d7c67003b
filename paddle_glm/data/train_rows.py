"""The rows of a training file: in memory, in a cache of tokens, or read when they are asked for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from paddle_glm.array_types import IntArray
from paddle_glm.data.data_files import Columns, Example, load_examples
from paddle_glm.data.datasets import SupervisedDataset
from paddle_glm.data.lazy_rows import LazyRows
from paddle_glm.data.samples import SampleDataset, SampleFormat
from paddle_glm.data.token_cache import open_token_cache

logger = logging.getLogger(__name__)

_MANY_BYTES = 1 << 28  # of a file whose samples take gigabytes


class TrainRows(Protocol):
    """The rows of a file, by their index in its order."""

    def __len__(self) -> int: ...

    def examples(self, indices: IntArray) -> list[Example]:
        """The conversations of some rows; empty ones are left out."""

    def dataset(self, indices: IntArray) -> SampleDataset:
        """The training samples of some rows. Raises `InputError` if none has a target."""


@dataclass(frozen=True)
class _RowsInMemory:
    """All usable rows of a file."""

    rows: list[Example]
    form: SampleFormat
    progress: bool

    def __len__(self) -> int:
        return len(self.rows)

    def examples(self, indices: IntArray) -> list[Example]:
        return [self.rows[index] for index in indices]

    def dataset(self, indices: IntArray) -> SupervisedDataset:
        form = self.form
        return SupervisedDataset(
            self.examples(indices),
            form.template,
            form.tokenizer,
            form.src_length,
            form.tgt_length,
            self.progress,
        )


def open_train_rows(
    path: Path,
    columns: Columns | None,
    form: SampleFormat,
    lazy: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> TrainRows:
    """The rows of a training file.

    lazy: read and tokenize rows when they are asked for (JSON Lines). cache: folder in which tokens are kept
    (`open_token_cache`). Without either all rows are read now, and are in memory. Raises `InputError` for a
    file, or (but lazily) a row, that cannot be used.
    """
    if cache is not None:
        return open_token_cache(cache, path, columns, form, progress)
    if lazy:
        return LazyRows(path, columns, form)
    if progress and path.stat().st_size > _MANY_BYTES:
        logger.warning(
            "%s has %d MiB, and its samples will take several times as much memory: --dataset_cache FOLDER "
            "keeps them on disk, --lazy tokenizes them when they are needed",
            path,
            path.stat().st_size >> 20,
        )
    return _RowsInMemory(load_examples(path, columns), form, progress)
