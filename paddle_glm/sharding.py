"""How a parameter is cut over tensor-parallel ranks, as data.

One `Sharding` per parameter serves loading, splitting, merging, resharding and the gradient norm, so
that no two of them can disagree. Weights are stored [out_features, in_features], as on the hub: a
column-parallel linear layer is cut along axis 0, a row-parallel one along axis 1.
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
    """A stretch of `size` rows made of `num_shards` indivisible pieces (attention heads, KV groups, plain
    rows).

    Every rank holds `num_shards / degree` neighbouring units. With fewer units than ranks, each unit is
    held by `degree / num_shards` neighbouring ranks.
    """

    size: int
    num_shards: int

    def __post_init__(self) -> None:
        if self.num_shards < 1 or self.size % self.num_shards:
            raise InputError(f"{self.size} rows cannot be made of {self.num_shards} equal units")

    def num_replicas(self, degree: int) -> int:
        """How many ranks hold each unit; raises InputError where units and ranks do not divide."""
        if self.num_shards >= degree and self.num_shards % degree == 0:
            return 1
        if self.num_shards < degree and degree % self.num_shards == 0:
            return degree // self.num_shards
        raise InputError(
            f"tensor_parallel_degree {degree} cannot share out {self.num_shards} units "
            f"({self.size} rows): one must divide the other"
        )

    def local_range(self, rank: int, degree: int) -> tuple[int, int]:
        """The range of this segment, counted from the segment's start, that `rank` holds."""
        copies = self.num_replicas(degree)
        length = self.size * copies // degree
        start = rank // copies * length
        return start, start + length


class CopyStep(NamedTuple):
    """One step of a plan: rows [source_start, source_stop) of `source_rank` go to `target_start`."""

    source_rank: int
    source_start: int
    source_stop: int
    target_start: int


@dataclass(frozen=True)
class Sharding:
    """The axis that is cut and the segments along it, in order; axis None means every rank holds all.

    `pad`: the axis is padded with zeros up to a multiple of the degree, and cut again on merging.
    """

    axis: int | None
    segments: tuple[Segment, ...] = ()
    pad: bool = False

    @property
    def size(self) -> int:
        """Length of the cut axis in the full tensor."""
        return sum(segment.size for segment in self.segments)

    def local_ranges(self, rank: int, degree: int) -> list[tuple[int, int]]:
        """Ranges of the full tensor's cut axis that `rank` holds, one per segment, in local order.

        Empty for a replicated parameter. Padding is not segment of any range, so the last ranks of a
        padded vocabulary may hold an empty one.
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
        """Length of the cut axis on each rank, padding included."""
        if self.pad:
            return -(-self.size // degree)
        return sum(segment.size * segment.num_replicas(degree) // degree for segment in self.segments)

    def local_shape(self, full_shape: Sequence[int], rank: int, degree: int) -> tuple[int, ...]:
        """Shape of what `rank` holds of a tensor of `full_shape`."""
        _check_rank(rank, degree)
        shape = self._validate_shape(full_shape)
        if self.axis is None:
            return shape
        return (*shape[: self.axis], self.local_size(degree), *shape[self.axis + 1 :])

    def replica_ranges(self, rank: int, degree: int) -> list[tuple[int, int | None, int]]:
        """(start, stop, copies) along the local cut axis: how many ranks hold each stretch.

        A sum over ranks (the gradient norm) divides each stretch by its copies. The ranges cover the
        whole local axis; for a replicated parameter that is [(0, None, degree)], None as in a slice.
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
        """What `rank` of `degree` holds of the full `array`; a view where that is one unpadded range."""
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
        """The full tensor from every rank's shard, padding cut off, one copy of what several ranks hold."""
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
        """Copies that build the shard `rank` of `degree` from shards of `source_degree`.

        In the order of the target; adjoining steps are joined. What no step covers is padding, zeros.
        Only for a sharding with an axis.
        """
        sources = self._owners(source_degree)
        steps: list[CopyStep] = []
        target = 0
        for start, stop in self.local_ranges(rank, degree):
            for owner, owner_start, owner_stop, local_start in sources:
                low, high = max(start, owner_start), min(stop, owner_stop)
                if low >= high:
                    continue
                source_start = local_start + low - owner_start
                step = CopyStep(owner, source_start, source_start + high - low, target + low - start)
                steps = _append_copy(steps, step)
            target += stop - start
        return steps

    def _owners(self, degree: int) -> list[tuple[int, int, int, int]]:
        """(rank, full_start, full_stop, local_start): every row of the full axis once, in order."""
        owners = []
        for rank in range(degree):
            local = 0
            for start, stop in self.local_ranges(rank, degree):
                owners.append((rank, start, stop, local))
                local += stop - start
        owners.sort(key=lambda owner: (owner[1], owner[0]))
        seen = -1
        unique = []
        for owner in owners:
            if owner[1] > seen and owner[2] > owner[1]:
                unique.append(owner)
                seen = owner[1]
        return unique

    def _validate_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        if self.axis is not None and (len(shape) <= self.axis or shape[self.axis] != self.size):
            raise InputError(
                f"a tensor of shape {tuple(shape)} cannot be cut: axis {self.axis} should be {self.size}"
            )
        return tuple(shape)


def column_parallel(*segments: Segment) -> Sharding:
    """Cut along the output axis (0), segment by segment: fused weights are never cut contiguously."""
    return Sharding(0, segments)


def row_parallel(segment: Segment) -> Sharding:
    """Cut along the input axis (1)."""
    return Sharding(1, (segment,))


def vocab_parallel(size: int) -> Sharding:
    """Cut along axis 0, padded with zero rows up to a multiple of the degree."""
    return Sharding(0, (Segment(size, size),), pad=True)


REPLICATED = Sharding(None)


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of a checkpoint: its full shape, and how tensor parallelism cuts it.

    dtype: what it is kept in where that does not follow the model's dtype; a numpy name.
    """

    shape: tuple[int, ...]
    sharding: Sharding
    dtype: str | None = None


def axis_slice(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    """Index that takes [start, stop) along `axis`."""
    return (*(slice(None),) * axis, slice(start, stop))


def apply_copy(step: CopyStep, axis: int, source: Array, target: Array) -> None:
    """Carry out one step of a plan from `source` (the array of step.source_rank) into `target`."""
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
