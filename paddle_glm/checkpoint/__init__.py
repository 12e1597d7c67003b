"""Checkpoints: every format in and out, memory-mapped, streamed, whole or not at all; no framework."""

from paddle_glm.checkpoint.atomic_save import (
    atomic_folder,
    begin_atomic_save,
    commit_atomic_save,
    is_complete,
    latest_complete,
    remove_leftovers,
    rollback_atomic_save,
    temporary_path,
)
from paddle_glm.checkpoint.lazy_tensor import LazyTensor
from paddle_glm.checkpoint.reader import Checkpoint, open_checkpoint
from paddle_glm.checkpoint.save import save_checkpoint, save_model, save_tp_shard
from paddle_glm.checkpoint.weight_files import tp_shard_name

__all__ = [
    "Checkpoint",
    "LazyTensor",
    "atomic_folder",
    "begin_atomic_save",
    "commit_atomic_save",
    "is_complete",
    "latest_complete",
    "open_checkpoint",
    "remove_leftovers",
    "rollback_atomic_save",
    "save_checkpoint",
    "save_model",
    "save_tp_shard",
    "temporary_path",
    "tp_shard_name",
]
