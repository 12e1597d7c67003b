"""What training sees of a wrapped model: the parameters that are trained, and how they are kept."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.checkpoint.tensor_file import write_safetensors
from paddle_glm.checkpoint.tensors import as_lazy
from paddle_glm.families import ParameterSpec
from paddle_glm.parallel import TPGroup

if TYPE_CHECKING:
    from paddle_glm.models.base import CausalLM


@dataclass(frozen=True)
class Adapter:
    """The few parameters of a model that are trained and saved alone; they are float32.

    tensors: this process's slice of each, by its name in the model; specs: its full shape and sharding.
    names: what files call it. file, config_file: in the folder that is written; settings: what the
    latter holds.
    """

    model: "CausalLM"
    tensors: Mapping[str, Tensor]
    specs: Mapping[str, ParameterSpec]
    names: Mapping[str, str]
    file: str
    config_file: str
    settings: Mapping[str, Any]

    def freeze_model(self) -> None:
        """Leave everything but the adapter untrained."""
        trained = {id(tensor) for tensor in self.tensors.values()}
        for _, parameter in self.model.named_parameters():
            parameter.stop_gradient = id(parameter) not in trained

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """This process's slices, by their names in the model."""
        return iter(self.tensors.items())

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the parameters, in place, from full arrays by their names in files."""
        group = self.model.group
        for name, parameter in self.parameters():
            whole = arrays[self.names[name]].astype(np.float32)
            local = self.specs[name].sharding.split(whole, group.rank, group.degree)
            parameter.set_value(np.ascontiguousarray(local))

    def save(self, folder: Path) -> None:
        """Write the adapter, in one piece whatever the degree; every process of the group calls this."""
        tensors = {self.names[name]: self._gathered(name, value) for name, value in self.parameters()}
        if self.model.group.rank == 0:
            write_safetensors(folder / self.file, {name: as_lazy(value) for name, value in tensors.items()})
            text = json.dumps(dict(self.settings), ensure_ascii=False, indent=2)
            (folder / self.config_file).write_text(text + "\n", encoding="utf-8")

    def _gathered(self, name: str, value: Tensor) -> np.ndarray:
        spec, group = self.specs[name], self.model.group
        if spec.sharding.axis is None or group.degree == 1:
            return value.numpy()
        return spec.sharding.merge(_slices(value, group), spec.shape)


def _slices(value: Tensor, group: TPGroup) -> list[np.ndarray]:
    parts: list[Tensor] = []
    dist.all_gather(parts, value.detach().contiguous(), group=group.handle)
    return [part.numpy() for part in parts]
