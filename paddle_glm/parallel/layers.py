"""Linear layers and embeddings that hold this process's slice, as the family's sharding table cuts it.

Weights are [out_features, in_features], as hub checkpoints store them, so nothing is transposed
between file, memory and file. At degree 1 these are plain layers.
"""

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.parallel.group import TPGroup
from paddle_glm.parallel.ops import (
    copy_to_group,
    gather_from_group,
    reduce_from_group,
    sum_shared_rows,
)
from paddle_glm.precision import compute_dtype
from paddle_glm.sharding import Sharding

_ZEROS = nn.initializer.Constant(0.0)


def new_parameter(layer: nn.Layer, shape: tuple[int, ...], dtype: Any, distributed: bool = False) -> Any:
    """A zero parameter of `shape`, to be filled from a checkpoint; `distributed` marks a slice for fleet."""
    parameter = layer.create_parameter(list(shape), dtype=dtype, default_initializer=_ZEROS)
    parameter.is_distributed = distributed
    return parameter


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in] transposed, in the dtype of x: half weights are widened on CPU."""
    y = paddle.matmul(x, weight.astype(x.dtype), transpose_y=True)
    return y if bias is None else y + bias.astype(x.dtype)


class ColumnLinear(nn.Layer):
    """Output features are cut over the group: x [..., in] (whole) -> [..., out_local].

    Rows that several processes hold (key/value groups beyond their number) get the sum of the
    holders' gradients.
    """

    def __init__(
        self, in_features: int, sharding: Sharding, group: TPGroup, dtype: str, bias: bool = False
    ) -> None:
        super().__init__()
        out_features = sum(part.size for part in sharding.parts)
        shape = sharding.local_shape((out_features, in_features), group.rank, group.degree)
        self.group = group
        self.shared = tuple(
            (start, stop, copies)
            for start, stop, copies in sharding.shared_ranges(group.rank, group.degree)
            if stop is not None and copies > 1
        )
        self.weight = new_parameter(self, shape, dtype, group.degree > 1)
        self.bias = new_parameter(self, shape[:1], dtype, group.degree > 1) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = sum_shared_rows(self.weight, self.shared, self.group)
        bias = None if self.bias is None else sum_shared_rows(self.bias, self.shared, self.group)
        return linear(copy_to_group(x, self.group), weight, bias)


class RowLinear(nn.Layer):
    """Input features are cut over the group: x [..., in_local] -> [..., out] (summed over the group).

    The bias is whole on every process and added once, to the sum.
    """

    def __init__(
        self, out_features: int, sharding: Sharding, group: TPGroup, dtype: str, bias: bool = False
    ) -> None:
        super().__init__()
        in_features = sum(part.size for part in sharding.parts)
        shape = sharding.local_shape((out_features, in_features), group.rank, group.degree)
        self.group = group
        self.weight = new_parameter(self, shape, dtype, group.degree > 1)
        self.bias = new_parameter(self, (out_features,), dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = reduce_from_group(linear(x, self.weight), self.group)
        return y if self.bias is None else y + self.bias.astype(y.dtype)


class VocabEmbedding(nn.Layer):
    """Words are cut over the group: ids [...] (whole) -> [..., hidden] (whole), in the compute dtype."""

    def __init__(self, hidden_size: int, sharding: Sharding, group: TPGroup, dtype: str) -> None:
        super().__init__()
        words = sum(part.size for part in sharding.parts)
        shape = sharding.local_shape((words, hidden_size), group.rank, group.degree)
        self.group, self.words = group, shape[0]
        self.weight = new_parameter(self, shape, dtype, group.degree > 1)

    def forward(self, ids: Tensor) -> Tensor:
        dtype = compute_dtype(self.weight.dtype)
        if self.group.degree == 1:
            return F.embedding(ids, self.weight).astype(dtype)
        local = ids - self.group.rank * self.words
        mine = paddle.logical_and(local >= 0, local < self.words)
        local = paddle.where(mine, local, paddle.zeros_like(local))
        rows = F.embedding(local, self.weight).astype(dtype)
        return reduce_from_group(rows * mine.unsqueeze(-1).astype(dtype), self.group)


class VocabHead(nn.Layer):
    """Hidden states [..., hidden] -> logits: `forward` gives the local slice, `gather` all words.

    tied: the embedding whose weight the head shares; it is cut alike.
    """

    def __init__(
        self,
        hidden_size: int,
        sharding: Sharding,
        group: TPGroup,
        dtype: str,
        tied: VocabEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.group, self.vocab_size = group, sum(part.size for part in sharding.parts)
        shape = sharding.local_shape((self.vocab_size, hidden_size), group.rank, group.degree)
        self.weight = new_parameter(self, shape, dtype, group.degree > 1) if tied is None else tied.weight
        # The rows that pad an indivisible vocabulary stand at the end: on the last ranks.
        held = (group.rank + 1) * shape[0] - self.vocab_size
        self.padding = min(max(held, 0), shape[0])

    def forward(self, x: Tensor) -> Tensor:
        logits = linear(copy_to_group(x, self.group), self.weight)
        if not self.padding:
            return logits
        # A padded word must take no probability; the number is one that float16 can hold.
        lowest = paddle.full([*logits.shape[:-1], self.padding], -6e4, dtype=logits.dtype)
        return paddle.concat([logits[..., : logits.shape[-1] - self.padding], lowest], axis=-1)

    def gather(self, logits: Tensor) -> Tensor:
        """[..., vocab_local] -> [..., vocab_size]."""
        return gather_from_group(logits, self.group)[..., : self.vocab_size]
