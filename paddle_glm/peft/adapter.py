"""The trained parameters of a LoRA or prefix model: freezing, loading and saving."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.checkpoint import atomic_folder
from paddle_glm.checkpoint.lazy_tensor import as_lazy
from paddle_glm.checkpoint.safetensors_file import write_safetensors
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import ProcessGroup
from paddle_glm.sharding import ParameterSpec


@dataclass(frozen=True)
class Adapter:
    """Parameters (float32) that are trained and saved without the base model.

    tensors: {name in the model: shard on this rank}. specs: their full shapes and shardings. file_names:
    {name in the model: name in files}. weights_file, config_file: names of the files that are written.
    config_values: contents of the config file.
    """

    model: CausalLM
    tensors: Mapping[str, Tensor]
    specs: Mapping[str, ParameterSpec]
    file_names: Mapping[str, str]
    weights_file: str
    config_file: str
    config_values: Mapping[str, Any]

    def freeze_base_model(self) -> None:
        """Make only the adapter's parameters trainable."""
        trained = {id(tensor) for tensor in self.tensors.values()}
        for _, parameter in self.model.named_parameters():
            parameter.stop_gradient = id(parameter) not in trained

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name in the model, shard on this rank) of every parameter."""
        return iter(self.tensors.items())

    def load_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Set the parameters in place from full arrays {name in files: array}."""
        group = self.model.group
        for name, parameter in self.parameters():
            full = arrays[self.file_names[name]].astype(np.float32)
            local = self.specs[name].sharding.split(full, group.rank, group.degree)
            parameter.set_value(np.ascontiguousarray(local))

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a folder for `lora_path` or `ptuning_checkpoint`, atomically.

        Raises `InputError` if the model is sharded, or if the folder is not empty and `overwrite` is not set.
        """
        if self.model.group.degree > 1:
            raise InputError("save_pretrained needs the unsharded model: finetune with `paddle-glm finetune`")
        with atomic_folder(folder, overwrite=overwrite) as path:
            self.save(path)

    def save(self, folder: Path) -> None:
        """Write the unsharded adapter; a collective call of all ranks of the group, rank 0 writes."""
        tensors = {self.file_names[name]: self._gather(name, value) for name, value in self.parameters()}
        if self.model.group.rank == 0:
            write_safetensors(
                folder / self.weights_file, {name: as_lazy(value) for name, value in tensors.items()}
            )
            text = json.dumps(dict(self.config_values), ensure_ascii=False, indent=2)
            (folder / self.config_file).write_text(text + "\n", encoding="utf-8")

    def _gather(self, name: str, value: Tensor) -> Array:
        spec, group = self.specs[name], self.model.group
        if spec.sharding.axis is None or group.degree == 1:
            return value.numpy()
        return spec.sharding.merge(_all_gather(value, group), spec.shape)


def _all_gather(value: Tensor, group: ProcessGroup) -> list[Array]:
    shards: list[Tensor] = []
    dist.all_gather(shards, value.detach().contiguous(), group=group.handle)
    return [shard.numpy() for shard in shards]
