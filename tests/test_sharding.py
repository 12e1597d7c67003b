"""Sharding: what is cut comes back bit for bit, whatever the degrees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddle_glm.errors import InputError
from paddle_glm.sharding import (
    REPLICATED,
    Segment,
    Sharding,
    apply_copy,
    column_parallel,
    row_parallel,
    vocab_parallel,
)

DEGREES = st.sampled_from([1, 2, 4, 8])
# Units of a part: multiples of 8, or few enough to be shared by neighbouring ranks.
UNITS = st.sampled_from([1, 2, 4, 8, 16, 24])


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    units = draw(UNITS)
    return Segment(units * draw(st.integers(1, 3)), units)


@st.composite
def shardings(draw: st.DrawFn) -> Sharding:
    kind = draw(st.sampled_from(["column", "row", "vocab", "replicated"]))
    if kind == "column":
        return column_parallel(*draw(st.lists(segments(), min_size=1, max_size=3)))
    if kind == "row":
        return row_parallel(draw(segments()))
    return vocab_parallel(draw(st.integers(1, 50))) if kind == "vocab" else REPLICATED


def full_tensor(sharding: Sharding, other: int = 3) -> np.ndarray:
    """Distinct values, so that a misplaced row cannot go unnoticed."""
    sizes = [other, other]
    if sharding.axis is not None:
        sizes[sharding.axis] = sharding.size
    return np.arange(1, 1 + sizes[0] * sizes[1], dtype=np.float32).reshape(sizes)


@given(shardings(), DEGREES)
def test_split_then_merge_is_the_same(sharding: Sharding, degree: int) -> None:
    full = full_tensor(sharding)
    shards = [sharding.split(full, rank, degree) for rank in range(degree)]
    for rank, shard in enumerate(shards):
        assert shard.shape == sharding.local_shape(full.shape, rank, degree)
    np.testing.assert_array_equal(sharding.merge(shards, full.shape), full)


@given(shardings(), DEGREES, DEGREES)
def test_plan_reshards_any_degree_to_any_other(sharding: Sharding, source: int, target: int) -> None:
    if sharding.axis is None:
        return
    full = full_tensor(sharding)
    shards = [sharding.split(full, rank, source) for rank in range(source)]
    for rank in range(target):
        expected = sharding.split(full, rank, target)
        built = np.zeros_like(expected)
        for step in sharding.reshard_plan(source, rank, target):
            apply_copy(step, sharding.axis, shards[step.source_rank], built)
        np.testing.assert_array_equal(built, expected)


@given(shardings(), DEGREES)
def test_ranges_cover_everything_and_counts_are_right(sharding: Sharding, degree: int) -> None:
    if sharding.axis is None:
        assert sharding.local_ranges(0, degree) == []
        assert sharding.replica_ranges(0, degree) == [(0, None, degree)]
        return
    holders = np.zeros(sharding.size, int)
    for rank in range(degree):
        for start, stop in sharding.local_ranges(rank, degree):
            holders[start:stop] += 1
    assert (holders >= 1).all()

    weight = 0.0
    for rank in range(degree):
        rows = [row for start, stop in sharding.local_ranges(rank, degree) for row in range(start, stop)]
        shared = sharding.replica_ranges(rank, degree)
        assert [start for start, _, _ in shared] == [0, *[stop for _, stop, _ in shared[:-1]]]
        assert shared[-1][1] == sharding.local_size(degree)
        for start, stop, copies in shared:
            assert all(holders[row] == copies for row in rows[start:stop])
            weight += len(rows[start:stop]) / copies
    assert weight == pytest.approx(sharding.size)


def test_key_value_groups_are_shared_by_neighbours() -> None:
    # ChatGLM2's fused projection: 4 heads, 2 key groups, 2 value groups of 2 rows each, 4 ranks.
    sharding = column_parallel(Segment(8, 4), Segment(4, 2), Segment(4, 2))
    assert sharding.local_ranges(1, 4) == [(2, 4), (8, 10), (12, 14)]
    assert sharding.local_ranges(2, 4) == [(4, 6), (10, 12), (14, 16)]
    assert sharding.replica_ranges(1, 4) == [(0, 2, 1), (2, 4, 2), (4, 6, 2)]


def test_vocabulary_is_padded_with_zeros_and_cut_again() -> None:
    full = np.ones((5, 2), np.float16)
    shards = [vocab_parallel(5).split(full, rank, 4) for rank in range(4)]
    assert [shard.shape for shard in shards] == [(2, 2)] * 4
    assert shards[2].tolist() == [[1, 1], [0, 0]]
    assert shards[3].tolist() == [[0, 0], [0, 0]]
    np.testing.assert_array_equal(vocab_parallel(5).merge(shards, (5, 2)), full)


def test_one_range_is_a_view() -> None:
    full = np.zeros((8, 2))
    assert np.shares_memory(column_parallel(Segment(8, 4)).split(full, 1, 2), full)


def test_errors_name_the_numbers() -> None:
    with pytest.raises(InputError, match=r"degree 4 cannot split 6 blocks \(12 rows\)"):
        column_parallel(Segment(12, 6)).local_ranges(0, 4)
    with pytest.raises(InputError, match="degree 3 cannot split 2 blocks"):
        column_parallel(Segment(4, 2)).local_size(3)
    with pytest.raises(InputError, match="rank 2 is outside tensor_parallel_degree 2"):
        vocab_parallel(4).local_ranges(2, 2)
    with pytest.raises(InputError, match=r"shape \(3, 3\) cannot be sharded: axis 0 should be 4"):
        column_parallel(Segment(4, 2)).split(np.zeros((3, 3)), 0, 2)
    with pytest.raises(InputError, match=r"shard 1 of 2 has shape \(3, 1\), expected \(2, 1\)"):
        column_parallel(Segment(4, 2)).merge([np.zeros((2, 1)), np.zeros((3, 1))], (4, 1))
    with pytest.raises(InputError, match="5 rows cannot be split into 2 equal blocks"):
        Segment(5, 2)
