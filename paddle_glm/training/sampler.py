"""In which order rows are read: the same for any number of processes, and resumable at no cost."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from paddle.io import DistributedBatchSampler

from paddle_glm.array_types import Array

# Rows whose lengths are sorted together by `group_by_length`, in batches.
_MEGA_BATCHES = 50


class TrainSampler(DistributedBatchSampler):
    """Batches of row numbers for one data-parallel rank.

    The rows of an epoch are shuffled by (seed, epoch) alone and cut into batches; batch k goes to rank
    k % ranks. So two ranks read what one process reads in two accumulation steps. Batches at the end
    that do not fill an optimizer step are left to the next epoch's shuffle: PaddleNLP would carry
    their gradients over into it, which no checkpoint could restore. A data set smaller than one step
    is read whole, starting over where ranks would go without.

    With `skip_batches(epoch, batches)`, the epoch's first batches are yielded empty: they were consumed
    before a resume, and reading them again would cost time and nothing else.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        ranks: int,
        rank: int,
        seed: int,
        accumulation_steps: int,
        drop_last: bool = False,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """lengths: tokens per row, to put rows of similar length into one batch; None to leave that."""
        super().__init__(dataset, batch_size, num_replicas=ranks, rank=rank, drop_last=drop_last)
        self.seed, self.ranks, self.rank, self.lengths = seed, ranks, rank, lengths
        rows = len(dataset)
        batches = rows // batch_size if drop_last else -(-rows // batch_size)
        steps = batches // (ranks * accumulation_steps)
        self.batches = steps * accumulation_steps if steps else -(-batches // ranks)
        self._num_batches = batches
        self._skipped: dict[int, int] = {}

    def __len__(self) -> int:
        return self.batches

    def skip_batches(self, epoch: int, batches: int) -> None:
        self._skipped = {epoch: batches}

    def __iter__(self) -> Iterator[list[int]]:
        order = self.epoch_order(self.epoch)
        skipped = self._skipped.get(self.epoch, 0)
        for index in range(self.batches):
            if index < skipped:
                yield []
                continue
            start = (index * self.ranks + self.rank) % self._num_batches * self.batch_size
            yield order[start : start + self.batch_size].tolist()

    def epoch_order(self, epoch: int) -> Array:
        """All row numbers in the order of `epoch`, int64."""
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.dataset))
        if self.lengths is None:
            return order
        lengths = np.asarray(self.lengths)
        span = _MEGA_BATCHES * self.batch_size
        spans = [order[start : start + span] for start in range(0, len(order), span)]
        order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in spans])
        # Batches are shuffled again, or every span would begin with its longest rows; a last batch
        # that is not full stays at the end.
        full = len(order) // self.batch_size
        batches = order[: full * self.batch_size].reshape(full, self.batch_size)
        return np.concatenate(
            [batches[random.permutation(full)].reshape(-1), order[full * self.batch_size :]]
        )


class EvalSampler(DistributedBatchSampler):
    """Every row once, in order; batch k goes to rank k % ranks, so ranks may differ by one batch."""

    def __init__(self, dataset: Any, batch_size: int, ranks: int, rank: int, limit: int = -1) -> None:
        """limit: batches over all ranks, -1 for all."""
        super().__init__(dataset, batch_size, num_replicas=ranks, rank=rank)
        total = -(-len(dataset) // batch_size)
        self._batch_indices = range(rank, total if limit < 0 else min(total, limit * ranks), ranks)

    def __len__(self) -> int:
        return len(self._batch_indices)

    def __iter__(self) -> Iterator[list[int]]:
        for index in self._batch_indices:
            start = index * self.batch_size
            yield list(range(start, min(start + self.batch_size, len(self.dataset))))
