"""A model in this process, or one process's part of a tensor-parallel model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import paddle

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.errors import InputError
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.load_memory import MemoryBudget
from paddle_glm.models.past_key_values import PastKeyValues
from paddle_glm.models.step_model import StepModel
from paddle_glm.numpy_interop import step_tensor
from paddle_glm.parallel.collectives import broadcast_array
from paddle_glm.parallel.memory import memory_budget


class RowAdapters(Protocol):
    """LoRA adapters that rows choose from (`paddle_glm.peft.lora_rows.LoraRows`)."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def use(self, rows: Sequence[str | None]) -> None: ...


class DygraphBackend(KVCacheBackend):
    """Runs `model.forward_with_cache`. Above degree 1, every process of the group makes the same calls."""

    def __init__(self, model: StepModel, past: PastKeyValues | None = None) -> None:
        """past: of a conversation whose tokens are not computed again where a prompt begins with them."""
        super().__init__(model.config)
        self.stored_dtype = model.weight_format.dtype
        self.model, self._reused_past = model, past
        self.adapters: RowAdapters | None = None

    @property
    def adapter_names(self) -> tuple[str, ...]:
        return () if self.adapters is None else self.adapters.names

    @property
    def is_leader(self) -> bool:
        return self.model.group.rank == 0

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        resumed, self._reused_past = self._reused_past, None
        shared = (
            resumed.common_prefix_length(input_ids[0]) if resumed is not None and len(input_ids) == 1 else 0
        )
        if resumed is None or not shared:
            return super().prefill(input_ids, attention_mask)
        self.check_ids(input_ids)
        self._check_mode()
        self._cache, self._adapters = resumed.cache_of(shared), (None,)
        self._ids, self._mask = input_ids, attention_mask
        return self._step(input_ids.shape[1] - shared)

    @property
    def past(self) -> PastKeyValues:
        """Keys and values of the one row, whose last token may not be among them yet."""
        return PastKeyValues.from_cache(self._cache, self._ids[0], self.model)

    def _check_mode(self) -> None:
        if self.model.training:
            raise InputError("the model is in training mode, where it drops out at random: call model.eval()")

    def memory_budget(self) -> MemoryBudget:
        return memory_budget(self.model.group)

    @paddle.no_grad()
    def new_cache(self, batch: int) -> KVCache:
        self._check_mode()
        return self.model.new_cache(batch)

    def cache_of(self, tensors: Sequence[Any]) -> KVCache:
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        prefix = self.model.prefix_cache
        return KVCache([DecodeLayer(*pair) for pair in pairs], 0 if prefix is None else prefix.length)

    def run(self, inputs: dict[str, IntArray]) -> FloatArray:
        if self.adapters is not None:
            self.adapters.use(self._adapters)
        tensors = {name: step_tensor(array) for name, array in inputs.items()}
        with paddle.no_grad():
            return self.model.forward_with_cache(**tensors, cache=self._cache).numpy()

    def broadcast(self, values: IntArray) -> IntArray:
        return broadcast_array(values, self.model.group)
