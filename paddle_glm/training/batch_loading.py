"""What the Trainer's data loader reads: batches that a resumed run skips, and rows that cannot be read.

Paddle's loader reads in a thread or in processes of its own. An exception there ends the thread alone, and
training would wait for ever (3.3.1, `io/dataloader/dataloader_iter.py: _thread_loop`): it travels as a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.data.samples import SampleDataset
from paddle_glm.errors import InputError

_ERROR = "error"  # key of a row or a batch that is the message of an error, UTF-8 bytes


class ReportingDataset:
    """A dataset whose rows that cannot be read are their errors, for `LoadingCollator`."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[index]
        except (InputError, OSError) as error:
            return {_ERROR: np.frombuffer(str(error).encode(), dtype=np.uint8)}

    @property
    def lengths(self) -> Sequence[int] | Array:
        return self.dataset.lengths


class LoadingCollator:
    """A collator that does not read the batches that a resumed run skips (see `TrainSampler`), and passes
    the errors of `ReportingDataset` on to `raise_loading_error`.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        if not rows:
            return {"skipped": np.zeros(1, dtype=np.int64)}
        failed = [row for row in rows if _ERROR in row]
        return failed[0] if failed else self._collate(list(rows))


def raise_loading_error(batch: Mapping[str, Any]) -> None:
    """Raise the `InputError` that a batch is, if it is one."""
    if _ERROR in batch:
        raise InputError(batch[_ERROR].numpy().tobytes().decode())
