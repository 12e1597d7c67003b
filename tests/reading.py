"""Rows that join a backend's others."""

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.backends.kv_cache import KVCacheBackend


def add_rows(backend: KVCacheBackend, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
    """Read rows whole and append them to the current ones; their logits."""
    reading = backend.start_reading(input_ids, attention_mask)
    logits = backend.read(reading, input_ids.shape[1])
    assert logits is not None
    backend.join(reading)
    return logits
