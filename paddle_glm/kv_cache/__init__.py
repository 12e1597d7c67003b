"""Keys and values of the tokens that a model has seen. `kv_cache.tensors` holds what needs Paddle."""

from paddle_glm.kv_cache.arrays import NUMPY, ArrayLibrary
from paddle_glm.kv_cache.cache import ConcatLayer, HeldColumns, KVCache, LayerCache, RowColumns

__all__ = ["NUMPY", "ArrayLibrary", "ConcatLayer", "HeldColumns", "KVCache", "LayerCache", "RowColumns"]
