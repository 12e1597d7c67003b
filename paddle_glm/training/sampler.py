"""Batch samplers whose order of rows does not depend on the number of processes and can be resumed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from paddle.io import DistributedBatchSampler

from paddle_glm.array_types import Array

# With `group_by_length`, rows are sorted by length within spans of this many batches.
_MEGA_BATCHES = 50


class TrainSampler(DistributedBatchSampler):
    """Batches of row indices for one data-parallel rank.

    An epoch's rows are shuffled by (seed, epoch) only and split into batches; batch k goes to rank
    k % num_replicas. Two ranks therefore read in one step what one process reads in two accumulation steps.
    The last batches, which do not fill an optimizer step, are dropped for this epoch: PaddleNLP would carry
    their gradients over into the next one, which no checkpoint could restore. A data set smaller than one
    step is read whole; ranks left without a batch start over from its beginning.

    After `skip_batches`, the epoch's first batches are yielded empty: a resumed run has trained on them.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        num_replicas: int,
        rank: int,
        seed: int,
        accumulation_steps: int,
        drop_last: bool = False,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """lengths: tokens per row, to batch rows of similar length; None: do not."""
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank, drop_last=drop_last)
        self.seed, self.num_replicas, self.rank, self.lengths = seed, num_replicas, rank, lengths
        rows = len(dataset)
        batches = rows // batch_size if drop_last else -(-rows // batch_size)
        steps = batches // (num_replicas * accumulation_steps)
        self.batches = steps * accumulation_steps if steps else -(-batches // num_replicas)
        self._num_batches = batches
        self._skipped: dict[int, int] = {}

    def __len__(self) -> int:
        return self.batches

    def skip_batches(self, epoch: int, batches: int) -> None:
        """Yield the first `batches` batches of `epoch` empty."""
        self._skipped = {epoch: batches}

    def __iter__(self) -> Iterator[list[int]]:
        order = self.epoch_order(self.epoch)
        skipped = self._skipped.get(self.epoch, 0)
        for index in range(self.batches):
            if index < skipped:
                yield []
                continue
            start = (index * self.num_replicas + self.rank) % self._num_batches * self.batch_size
            yield order[start : start + self.batch_size].tolist()

    def epoch_order(self, epoch: int) -> Array:
        """Row indices in the order of `epoch`, int64 [rows]."""
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.dataset))
        if self.lengths is None:
            return order
        lengths = np.asarray(self.lengths)
        span = _MEGA_BATCHES * self.batch_size
        spans = [order[start : start + span] for start in range(0, len(order), span)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in spans])
        # Batches are shuffled again: every span would begin with its longest rows. A last batch that is
        # not full stays at the end.
        full = len(order) // self.batch_size
        batches = order[: full * self.batch_size].reshape(full, self.batch_size)
        return np.concatenate(
            [batches[random.permutation(full)].reshape(-1), order[full * self.batch_size :]]
        )


class EvalSampler(DistributedBatchSampler):
    """Every row once, in order; batch k goes to rank k % num_replicas. Ranks differ by at most one batch."""

    def __init__(self, dataset: Any, batch_size: int, num_replicas: int, rank: int, limit: int = -1) -> None:
        """limit: batches per rank; -1: all."""
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank)
        total = -(-len(dataset) // batch_size)
        self._batch_indices = range(
            rank, total if limit < 0 else min(total, limit * num_replicas), num_replicas
        )

    def __len__(self) -> int:
        return len(self._batch_indices)

    def __iter__(self) -> Iterator[list[int]]:
        for index in self._batch_indices:
            start = index * self.batch_size
            yield list(range(start, min(start + self.batch_size, len(self.dataset))))
