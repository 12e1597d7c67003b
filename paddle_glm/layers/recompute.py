"""Activation checkpointing (arXiv:1604.06174): of whole blocks, of attention layers, or of what is between
their products (arXiv:2205.05198, section 5).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor
from paddle.distributed.fleet.utils import recompute

from paddle_glm.kernels.usage import recomputed_block
from paddle_glm.kv_cache import ConcatLayer, LayerCache
from paddle_glm.kv_cache.tensors import PADDLE
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.paddle_types import TensorLayer

# PaddleNLP's names of what is recomputed: blocks, attention layers, attention without its products.
FULL, FULL_ATTENTION, CORE_ATTENTION = GRANULARITIES = ("full", "full_attn", "core_attn")

_recomputed_part: str | None = None


@contextmanager
def recomputed_attention(part: str | None) -> Iterator[None]:
    """Attention layers called within it recompute `FULL_ATTENTION`, `CORE_ATTENTION` or nothing (None)."""
    global _recomputed_part
    before, _recomputed_part = _recomputed_part, part
    try:
        yield
    finally:
        _recomputed_part = before


class AttentionLayer(TensorLayer):
    """x [batch, tokens, hidden] -> the same shape. Subclasses have the two products and define `core`."""

    query_key_value: TensorLayer
    dense: TensorLayer

    def core(
        self, fused: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None
    ) -> Tensor:
        """The rank's fused projection [batch, tokens, channels] -> [batch, tokens, heads * head_dim]."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None = None
    ) -> Tensor:
        if _recomputed_part == FULL_ATTENTION:
            return run_recomputed(self._forward, x, rotary, mask, cache)
        if _recomputed_part == CORE_ATTENTION:
            return self.dense(run_recomputed(self.core, self.query_key_value(x), rotary, mask, cache))
        return self._forward(x, rotary, mask, cache)

    def _forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None
    ) -> Tensor:
        return self.dense(self.core(self.query_key_value(x), rotary, mask, cache))


def run_recomputed(
    function: Callable[..., Tensor], x: Tensor, positions: Any, mask: AttentionMask, cache: LayerCache | None
) -> Tensor:
    """function(x, positions, mask, cache), which saves its inputs alone; it does not update the cache."""
    past: tuple[Tensor, ...] = () if cache is None else cache.key_value
    behind_frozen = x.stop_gradient and all(tensor.stop_gradient for tensor in past)
    if behind_frozen and paddle.is_grad_enabled():
        # After a frozen embedding: recompute gives no weight gradients if no input needs a gradient.
        x = x.detach()
        x.stop_gradient = False
    output: Tensor = recompute(_call, function, x, positions, mask, *past)
    return output


def _call(
    function: Callable[..., Tensor], x: Tensor, positions: Any, mask: AttentionMask, *past: Tensor
) -> Tensor:
    # Recomputing a function that takes or returns a nested tuple loses gradients or crashes in backward
    # (Paddle 3.3.1).
    with recomputed_block():
        return function(x, positions, mask, ConcatLayer(PADDLE, *past) if past else None)
