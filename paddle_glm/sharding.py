"""How parameters are sharded over tensor-parallel ranks, as data.

One `Sharding` per parameter serves loading, splitting, merging, resharding and the gradient norm, so that
they cannot disagree. Weights are stored [out_features, in_features], as on the hub: column-parallel linear
layers are sharded along axis 0, row-parallel ones along axis 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError


@dataclass(frozen=True)
class Segment:
    """A range of `size` rows of the sharded axis made of `num_shards` indivisible blocks (attention heads,
    KV groups or single rows).

    Every rank holds `num_shards / degree` consecutive blocks. With fewer blocks than ranks, each block is
    replicated on `degree / num_shards` consecutive ranks.
    """

    size: int
    num_shards: int

    def __post_init__(self) -> None:
        if self.num_shards < 1 or self.size % self.num_shards:
            raise InputError(f"{self.size} rows cannot be split into {self.num_shards} equal blocks")

    def num_replicas(self, degree: int) -> int:
        """Number of ranks that hold each block; InputError if neither number divides the other."""
        if self.num_shards >= degree and self.num_shards % degree == 0:
            return 1
        if self.num_shards < degree and degree % self.num_shards == 0:
            return degree // self.num_shards
        raise InputError(
            f"tensor_parallel_degree {degree} cannot split {self.num_shards} blocks "
            f"({self.size} rows): one must divide the other"
        )

    def local_range(self, rank: int, degree: int) -> tuple[int, int]:
        """(start, stop) of the rows on `rank`, relative to the start of the segment."""
        replicas = self.num_replicas(degree)
        length = self.size * replicas // degree
        start = rank // replicas * length
        return start, start + length


class CopyStep(NamedTuple):
    """Copy rows [source_start, source_stop) of the shard of `source_rank` to row `target_start`."""

    source_rank: int
    source_start: int
    source_stop: int
    target_start: int


@dataclass(frozen=True)
class Sharding:
    """The sharded axis and the segments along it, in order; axis None: replicated on every rank.

    `pad`: the axis is padded with zeros to a multiple of the degree; merging removes the padding.
    """

    axis: int | None
    segments: tuple[Segment, ...] = ()
    pad: bool = False

    @property
    def size(self) -> int:
        """Length of the sharded axis in the full tensor."""
        return sum(segment.size for segment in self.segments)

    def local_ranges(self, rank: int, degree: int) -> list[tuple[int, int]]:
        """(start, stop) along the full axis of the rows on `rank`, one per segment, in local order.

        Empty for a replicated parameter. Ranges exclude padding, so the last ranks of a padded vocabulary
        may have an empty one.
        """
        _check_rank(rank, degree)
        if self.pad:
            length = self.local_size(degree)
            return [(min(rank * length, self.size), min((rank + 1) * length, self.size))]
        ranges = []
        offset = 0
        for segment in self.segments:
            start, stop = segment.local_range(rank, degree)
            ranges.append((offset + start, offset + stop))
            offset += segment.size
        return ranges

    def local_size(self, degree: int) -> int:
        """Length of the sharded axis on each rank, including padding."""
        if self.pad:
            return -(-self.size // degree)
        return sum(segment.size * segment.num_replicas(degree) // degree for segment in self.segments)

    def local_shape(self, full_shape: Sequence[int], rank: int, degree: int) -> tuple[int, ...]:
        """Shape on `rank` of a tensor of `full_shape`; InputError if that shape does not match."""
        _check_rank(rank, degree)
        shape = self._validate_shape(full_shape)
        if self.axis is None:
            return shape
        return (*shape[: self.axis], self.local_size(degree), *shape[self.axis + 1 :])

    def replica_ranges(self, rank: int, degree: int) -> list[tuple[int, int | None, int]]:
        """(start, stop, replicas) along the local axis: the number of ranks that hold each range.

        A sum over ranks (the gradient norm) divides each range by its replicas. The ranges cover the full
        local axis; a replicated parameter has [(0, None, degree)], None as in a slice.
        """
        _check_rank(rank, degree)
        if self.axis is None:
            return [(0, None, degree)]
        if self.pad:
            return [(0, self.local_size(degree), 1)]
        stops = list(accumulate(stop - start for start, stop in self.local_ranges(rank, degree)))
        starts = [0, *stops[:-1]]
        return [
            (start, stop, segment.num_replicas(degree))
            for start, stop, segment in zip(starts, stops, self.segments, strict=True)
        ]

    def split(self, array: Array, rank: int, degree: int) -> Array:
        """The shard of the full `array` for `rank` of `degree`; a view if it is one unpadded range."""
        _check_rank(rank, degree)
        self._validate_shape(array.shape)
        if self.axis is None:
            return array
        steps = self.reshard_plan(1, rank, degree)
        if len(steps) == 1 and steps[0].source_stop - steps[0].source_start == self.local_size(degree):
            return array[axis_slice(self.axis, steps[0].source_start, steps[0].source_stop)]
        local = np.zeros(self.local_shape(array.shape, rank, degree), array.dtype)
        for step in steps:
            apply_copy(step, self.axis, array, local)
        return local

    def merge(self, shards: Sequence[Array], full_shape: Sequence[int]) -> Array:
        """The full tensor from the shards of all ranks, without padding and replicas."""
        degree = len(shards)
        shape = self._validate_shape(full_shape)
        for rank, shard in enumerate(shards):
            expected = self.local_shape(shape, rank, degree)
            if shard.shape != expected:
                raise InputError(f"shard {rank} of {degree} has shape {shard.shape}, expected {expected}")
        if self.axis is None:
            return shards[0]
        full = np.empty(shape, shards[0].dtype)
        for step in self.reshard_plan(degree, 0, 1):
            apply_copy(step, self.axis, shards[step.source_rank], full)
        return full

    def reshard_plan(self, source_degree: int, rank: int, degree: int) -> list[CopyStep]:
        """Copies that assemble the shard for `rank` of `degree` from shards of `source_degree`.

        In target order, with adjacent copies merged. Rows that no step covers are padding (zeros). Not for
        replicated parameters.
        """
        sources = self._source_ranges(source_degree)
        steps: list[CopyStep] = []
        target = 0
        for start, stop in self.local_ranges(rank, degree):
            for source_rank, full_start, full_stop, local_start in sources:
                low, high = max(start, full_start), min(stop, full_stop)
                if low >= high:
                    continue
                source_start = local_start + low - full_start
                step = CopyStep(source_rank, source_start, source_start + high - low, target + low - start)
                steps = _append_copy(steps, step)
            target += stop - start
        return steps

    def _source_ranges(self, degree: int) -> list[tuple[int, int, int, int]]:
        """(rank, full_start, full_stop, local_start): every row of the full axis once, in order."""
        ranges: dict[int, tuple[int, int, int, int]] = {}
        for rank in range(degree):
            local = 0
            for start, stop in self.local_ranges(rank, degree):
                if stop > start:
                    ranges.setdefault(start, (rank, start, stop, local))  # of replicas, the first rank's
                local += stop - start
        return [ranges[start] for start in sorted(ranges)]

    def _validate_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        if self.axis is not None and (len(shape) <= self.axis or shape[self.axis] != self.size):
            raise InputError(
                f"a tensor of shape {tuple(shape)} cannot be sharded: axis {self.axis} should be {self.size}"
            )
        return tuple(shape)


def column_parallel(*segments: Segment) -> Sharding:
    """Sharded along the output axis (0), each segment separately, as fused weights need."""
    return Sharding(0, segments)


def row_parallel(segment: Segment) -> Sharding:
    """Sharded along the input axis (1)."""
    return Sharding(1, (segment,))


def vocab_parallel(size: int) -> Sharding:
    """Sharded along axis 0, padded with zero rows to a multiple of the degree."""
    return Sharding(0, (Segment(size, size),), pad=True)


REPLICATED = Sharding(None)


@dataclass(frozen=True)
class ParameterSpec:
    """Full shape and sharding of one parameter.

    dtype: numpy name of its dtype; None: the model's.
    """

    shape: tuple[int, ...]
    sharding: Sharding
    dtype: str | None = None


def axis_slice(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    """Index of [start, stop) along `axis`."""
    return (*(slice(None),) * axis, slice(start, stop))


def apply_copy(step: CopyStep, axis: int, source: Array, target: Array) -> None:
    """Run one step of a plan, from the shard of `step.source_rank` into `target`."""
    stop = step.target_start + step.source_stop - step.source_start
    target[axis_slice(axis, step.target_start, stop)] = source[
        axis_slice(axis, step.source_start, step.source_stop)
    ]


def _append_copy(steps: list[CopyStep], step: CopyStep) -> list[CopyStep]:
    if steps:
        last = steps[-1]
        length = last.source_stop - last.source_start
        follows = last.source_stop == step.source_start and last.target_start + length == step.target_start
        if follows and last.source_rank == step.source_rank:
            return [
                *steps[:-1],
                CopyStep(last.source_rank, last.source_start, step.source_stop, last.target_start),
            ]
    return [*steps, step]


def _check_rank(rank: int, degree: int) -> None:
    if not 0 <= rank < degree:
        raise InputError(
            f"rank {rank} is outside tensor_parallel_degree {degree}: expected 0 to {degree - 1}"
        )
