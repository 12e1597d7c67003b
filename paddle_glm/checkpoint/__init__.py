"""Checkpoints in every format: memory-mapped reading, streaming atomic writing; no framework needed."""

from paddle_glm.checkpoint.atomic_save import (
    AtomicSave,
    atomic_folder,
    is_complete,
    latest_complete,
    remove_leftovers,
)
from paddle_glm.checkpoint.lazy_tensor import LazyTensor
from paddle_glm.checkpoint.reader import Checkpoint, open_checkpoint
from paddle_glm.checkpoint.save import save_checkpoint, save_model, save_tp_shard
from paddle_glm.checkpoint.weight_files import tp_shard_name

__all__ = [
    "AtomicSave",
    "Checkpoint",
    "LazyTensor",
    "atomic_folder",
    "is_complete",
    "latest_complete",
    "open_checkpoint",
    "remove_leftovers",
    "save_checkpoint",
    "save_model",
    "save_tp_shard",
    "tp_shard_name",
]
