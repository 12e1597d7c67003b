"""What decoding step by step needs of a model."""

from typing import Any, Protocol

from paddle import Tensor

from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import KVCache
from paddle_glm.kv_cache.tensors import PrefixCache
from paddle_glm.models.family import Family
from paddle_glm.parallel import ProcessGroup
from paddle_glm.parallel.layers import WeightFormat


class StepModel(Protocol):
    """The part of `CausalLM` that backends use; it lets them be typed without importing `models.base`."""

    config: ModelConfig
    family: Family
    group: ProcessGroup
    weight_format: WeightFormat
    training: bool
    prefix_cache: PrefixCache | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def new_cache(self, batch: int, prefix: PrefixCache | None = None) -> KVCache: ...

    def forward_with_cache(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, cache: KVCache
    ) -> Tensor: ...
