"""Checkpoints: every format in and out, memory-mapped, streamed, whole or not at all; no framework."""

from paddle_glm.checkpoint.files import tp_shard_name
from paddle_glm.checkpoint.folder import (
    abandon,
    atomic_folder,
    begin,
    finish,
    is_complete,
    latest_complete,
    remove_leftovers,
    temporary_of,
)
from paddle_glm.checkpoint.io import Checkpoint, open_checkpoint
from paddle_glm.checkpoint.save import save_checkpoint, save_model, save_tp_shard
from paddle_glm.checkpoint.tensors import LazyTensor

__all__ = [
    "Checkpoint",
    "LazyTensor",
    "abandon",
    "atomic_folder",
    "begin",
    "finish",
    "is_complete",
    "latest_complete",
    "open_checkpoint",
    "remove_leftovers",
    "save_checkpoint",
    "save_model",
    "save_tp_shard",
    "temporary_of",
    "tp_shard_name",
]
