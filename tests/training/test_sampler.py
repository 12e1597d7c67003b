"""The order of rows: whole, reproducible, the same for any number of processes, resumable."""

from itertools import chain

import numpy as np
import pytest

from paddle_glm.training.sampler import EvalSampler, TrainSampler


def batches(rows, batch, ranks=1, rank=0, accumulation=1, epoch=0, **options):
    sampler = TrainSampler(
        range(rows), batch, ranks, rank, seed=5, accumulation_steps=accumulation, **options
    )
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


def test_an_epoch_holds_every_row_once():
    drawn = batches(23, 4)
    assert sorted(chain(*drawn)) == list(range(23))
    assert [len(batch) for batch in drawn] == [4, 4, 4, 4, 4, 3]


def test_epochs_and_seeds_differ_and_repeat():
    assert batches(23, 4, epoch=1) == batches(23, 4, epoch=1)
    assert batches(23, 4, epoch=1) != batches(23, 4, epoch=0)


def test_two_ranks_read_what_one_reads_in_two_steps():
    alone = batches(24, 3, accumulation=2)
    first, second = (batches(24, 3, ranks=2, rank=rank) for rank in range(2))
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == alone


def test_batches_that_fill_no_step_are_left_out():
    assert len(batches(22, 2, accumulation=4)) == 8
    assert [len(batches(22, 2, ranks=2, rank=rank, accumulation=4)) for rank in range(2)] == [4, 4]


def test_less_than_one_step_is_read_whole_by_equal_ranks():
    drawn = [batches(5, 2, ranks=2, rank=rank, accumulation=8) for rank in range(2)]
    assert len(drawn[0]) == len(drawn[1]) == 2
    assert set(chain(*drawn[0], *drawn[1])) == set(range(5))


def test_drop_last():
    assert [len(batch) for batch in batches(23, 4, drop_last=True)] == [4] * 5


def test_skipped_batches_are_empty_in_their_epoch_alone():
    sampler = TrainSampler(range(12), 2, 1, 0, seed=5, accumulation_steps=1)
    sampler.set_epoch(1)
    expected = list(sampler)
    sampler.skip_batches(1, 4)
    assert list(sampler) == [[], [], [], [], *expected[4:]]
    sampler.set_epoch(2)
    assert all(sampler)


def test_grouped_rows_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(5, 200, 400).tolist()
    grouped = batches(400, 8, lengths=lengths)
    assert sorted(chain(*grouped)) == list(range(400))
    padding = [
        sum(max(lengths[row] for row in batch) - lengths[row] for batch in drawn for row in batch)
        for drawn in (grouped, batches(400, 8))
    ]
    assert padding[0] < padding[1] / 10
    longest = [max(lengths[row] for row in batch) for batch in grouped]
    assert longest != sorted(longest, reverse=True)


@pytest.mark.parametrize(("limit", "expected"), [(-1, 10), (2, 8)])
def test_evaluation_reads_every_row_once(limit, expected):
    drawn = [list(EvalSampler(range(10), 2, 2, rank, limit)) for rank in range(2)]
    assert sorted(chain(*drawn[0], *drawn[1])) == list(range(expected))
