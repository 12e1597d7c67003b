"""Linear layers and embeddings that hold this process's slice, as the family's sharding table cuts it.

Weights are [out_features, in_features], as hub checkpoints store them, so nothing is transposed
between file, memory and file. At degree 1 these are plain layers. `Storage` says in what they are kept.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.parallel.frozen import frozen_linear, is_frozen
from paddle_glm.parallel.group import TPGroup
from paddle_glm.parallel.ops import (
    copy_to_group,
    gather_from_group,
    reduce_from_group,
    sum_shared_rows,
)
from paddle_glm.parallel.packed import packed_linear, packed_rows, widened_linear
from paddle_glm.precision import compute_dtype
from paddle_glm.quantization import WEIGHT, Quantization, quantize
from paddle_glm.sharding import ParameterSpec, Sharding

_ZEROS = nn.initializer.Constant(0.0)


@dataclass(frozen=True)
class Storage:
    """What a model's parameters are kept in: `dtype`, and where `quantization` applies, small integers."""

    dtype: str
    quantization: Quantization | None = None

    @property
    def compute_dtype(self) -> paddle.dtype:
        """The dtype of activations."""
        return compute_dtype(getattr(paddle, self.dtype))

    def parts(self, spec: ParameterSpec) -> dict[str, ParameterSpec]:
        """The parameters that a weight is kept as, by the names of a layer's attributes."""
        if self.quantization is None or not self.quantization.applies_to(spec):
            return {WEIGHT: spec}
        return self.quantization.parts(spec)


def new_parameter(layer: nn.Layer, shape: tuple[int, ...], dtype: Any, distributed: bool = False) -> Any:
    """A zero parameter of `shape`, to be filled from a checkpoint; `distributed` marks a slice for fleet."""
    parameter = layer.create_parameter(list(shape), dtype=dtype, default_initializer=_ZEROS)
    parameter.is_distributed = distributed
    return parameter


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in] transposed, in the dtype of x: half weights are widened on CPU.

    For a frozen weight x is not kept.
    """
    if is_frozen(weight, x):
        y = frozen_linear(x, weight)
    elif weight.dtype != x.dtype and paddle.in_dynamic_mode() and not paddle.is_grad_enabled():
        y = widened_linear(x, weight)
    else:
        y = paddle.matmul(x, weight.astype(x.dtype), transpose_y=True)
    return y if bias is None else y + bias.astype(x.dtype)


class Weighted(nn.Layer):
    """A layer with this process's slice of a weight [out, in]: `weight`, and `weight_scale` where integers.

    spec: the float weight's full shape and how it is cut.
    """

    def __init__(self, spec: ParameterSpec, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.spec, self.group = spec, group
        self.keep_in(storage)

    def keep_in(self, storage: Storage) -> None:
        """Have parameters for `storage`, zero and to be filled, in the place of those that there were."""
        rank, degree = self.group.rank, self.group.degree
        self.storage, parts = storage, storage.parts(self.spec)
        for name in [name for name in self._parameters if name.startswith(WEIGHT)]:
            delattr(self, name)
        for name, spec in parts.items():
            shape = spec.sharding.local_shape(spec.shape, rank, degree)
            cut = degree > 1 and spec.sharding.axis is not None
            setattr(self, name, new_parameter(self, shape, spec.dtype or storage.dtype, cut))
        self.bits = 0
        if len(parts) > 1:
            assert storage.quantization is not None
            self.bits = storage.quantization.bits
            for name in parts:
                getattr(self, name).stop_gradient = True
        self.groups = self._local_groups() if self.bits else None

    @paddle.no_grad()
    def quantize(self, storage: Storage) -> None:
        """Keep the weight, all of it here, in `storage` from now on, where its quantization applies."""
        quantization = storage.quantization
        if quantization is None or not quantization.applies_to(self.spec):
            return
        weight = self.weight.astype("float32").numpy()
        values, scale = quantize(weight, quantization.bits, quantization.group_size)
        self.keep_in(storage)
        self.weight.set_value(paddle.to_tensor(values))
        self.weight_scale.set_value(paddle.to_tensor(scale))

    def multiply(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], of this process's slice, in the dtype of x."""
        if not self.bits:
            return linear(x, self.weight)
        return packed_linear(x, self.weight, self._local_scale(), self.bits)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of this process's slice, for ids [...] into it, in the compute dtype."""
        if not self.bits:
            return F.embedding(ids, self.weight).astype(self.storage.compute_dtype)
        return packed_rows(ids, self.weight, self._local_scale(), self.bits, self.storage.compute_dtype)

    def _local_scale(self) -> Tensor:
        """float32 [out] or [out, groups of the local inputs]."""
        return self.weight_scale if self.groups is None else self.weight_scale[:, self.groups]

    def _local_groups(self) -> slice | list[int] | None:
        """Which of a row's groups the local inputs are in, a slice or one index per stretch; None for all.

        A group that a cut goes through, and with it all others, counts as several of a smaller size.
        """
        assert self.storage.quantization is not None
        size = self.storage.quantization.group_size
        if size is None or self.spec.sharding.axis != 1 or self.group.degree == 1:
            return None
        ((start, stop),) = self.spec.sharding.local_ranges(self.group.rank, self.group.degree)
        step = gcd(size, start, stop)
        if step == size:
            return slice(start // size, stop // size)
        return [place // size for place in range(start, stop, step)]


class ColumnLinear(Weighted):
    """Output features are cut over the group: x [..., in] (whole) -> [..., out_local].

    Rows that several processes hold (key/value groups beyond their number) get the sum of the
    holders' gradients.
    """

    def __init__(
        self, in_features: int, sharding: Sharding, group: TPGroup, storage: Storage, bias: bool = False
    ) -> None:
        super().__init__(ParameterSpec((sharding.size, in_features), sharding), group, storage)
        self.shared = tuple(
            (start, stop, copies)
            for start, stop, copies in sharding.shared_ranges(group.rank, group.degree)
            if stop is not None and copies > 1
        )
        shape = (sharding.local_size(group.degree),)
        self.bias = new_parameter(self, shape, storage.dtype, group.degree > 1) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = copy_to_group(x, self.group)
        if self.bits:
            y = self.multiply(x)
        else:
            y = linear(x, sum_shared_rows(self.weight, self.shared, self.group))
        if self.bias is None:
            return y
        return y + sum_shared_rows(self.bias, self.shared, self.group).astype(y.dtype)


class RowLinear(Weighted):
    """Input features are cut over the group: x [..., in_local] -> [..., out] (summed over the group).

    The bias is whole on every process and added once, to the sum.
    """

    def __init__(
        self, out_features: int, sharding: Sharding, group: TPGroup, storage: Storage, bias: bool = False
    ) -> None:
        super().__init__(ParameterSpec((out_features, sharding.size), sharding), group, storage)
        self.bias = new_parameter(self, (out_features,), storage.dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = reduce_from_group(self.multiply(x), self.group)
        return y if self.bias is None else y + self.bias.astype(y.dtype)


class VocabEmbedding(Weighted):
    """Words are cut over the group: ids [...] (whole) -> [..., hidden] (whole), in the compute dtype."""

    def __init__(self, hidden_size: int, sharding: Sharding, group: TPGroup, storage: Storage) -> None:
        super().__init__(ParameterSpec((sharding.size, hidden_size), sharding), group, storage)
        self.words = sharding.local_size(group.degree)

    def forward(self, ids: Tensor) -> Tensor:
        if self.group.degree == 1:
            return self.rows(ids)
        local = ids - self.group.rank * self.words
        mine = paddle.logical_and(local >= 0, local < self.words)
        rows = self.rows(paddle.where(mine, local, paddle.zeros_like(local)))
        return reduce_from_group(rows * mine.unsqueeze(-1).astype(rows.dtype), self.group)


class Head(nn.Layer):
    """Hidden states [..., hidden] -> logits: `forward` gives the local slice, `gather` all words."""

    group: TPGroup

    def multiply(self, x: Tensor) -> Tensor:
        """x [..., hidden] times the rows of this process's words."""
        raise NotImplementedError

    def share(self, words: Sharding) -> None:
        """Set which of the words, cut so, are here."""
        self.vocab_size, local = words.size, words.local_size(self.group.degree)
        # The rows that pad an indivisible vocabulary stand at the end: on the last ranks.
        held = (self.group.rank + 1) * local - self.vocab_size
        self.padding = min(max(held, 0), local)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.multiply(copy_to_group(x, self.group))
        if not self.padding:
            return logits
        # A padded word must take no probability; the number is one that float16 can hold.
        lowest = paddle.full([*logits.shape[:-1], self.padding], -6e4, dtype=logits.dtype)
        return paddle.concat([logits[..., : logits.shape[-1] - self.padding], lowest], axis=-1)

    def gather(self, logits: Tensor) -> Tensor:
        """[..., vocab_local] -> [..., vocab_size]."""
        return gather_from_group(logits, self.group)[..., : self.vocab_size]


class VocabHead(Weighted, Head):
    """A head with a weight of its own; words are cut over the group."""

    def __init__(self, hidden_size: int, sharding: Sharding, group: TPGroup, storage: Storage) -> None:
        super().__init__(ParameterSpec((sharding.size, hidden_size), sharding), group, storage)
        self.share(sharding)


class TiedHead(Head):
    """A head whose weight is the embedding's; it has no parameters."""

    def __init__(self, embedding: VocabEmbedding) -> None:
        super().__init__()
        self.group = embedding.group
        self._embedding = (embedding,)  # in a tuple, so that it is no sublayer with names of its own
        self.share(embedding.spec.sharding)

    def multiply(self, x: Tensor) -> Tensor:
        return self._embedding[0].multiply(x)
