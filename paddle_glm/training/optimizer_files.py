"""The optimizer's state in files, for any number of processes.

A checkpoint has one safetensors file per tensor-parallel rank; with a sharding stage one per process, of the
parameters that the process owns. Tensors are named `HUB_NAME/KIND`. Moments and master weights are sharded
like their parameter, so that `Sharding` assembles those of another degree.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor
from paddle.base import framework

from paddle_glm.array_types import Array
from paddle_glm.checkpoint.safetensors_file import open_safetensors, write_safetensors
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM, lazy_tensors
from paddle_glm.parallel import Mesh, ProcessGroup
from paddle_glm.sharding import ParameterSpec, apply_copy

_FILE_NAME = re.compile(r"optimizer-tp(\d+)-of-(\d+)(?:-dp\d+-of-\d+)?\.safetensors")


def optimizer_tensors(optimizer: Any, model: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """AdamW's state as (`HUB_NAME/KIND`, tensor), of the parameters that this rank's optimizer has.

    Paddle creates the tensors at the first step and names them by counters that differ between runs; here
    they are created at once and named after the model's parameters.
    """
    parameters = [parameter for parameter in optimizer._parameter_list if not parameter.stop_gradient]
    held = {parameter.name for parameter in parameters}
    optimizer._create_accumulators(framework.default_main_program().global_block(), parameters)
    masters = optimizer._master_weights
    for name, parameter in model.named_parameters():
        if parameter.name not in held:
            continue
        master = masters.get(parameter.name)
        if master is not None:
            yield f"{name}/master", master
        key = parameter.name if master is None else master.name
        for kind, accumulators in optimizer._accumulators.items():
            if key in accumulators:
                yield f"{name}/{kind}", accumulators[key]


def parameter_name(state: str) -> str:
    """The parameter's name of `NAME/KIND`."""
    return state.rpartition("/")[0]


def write_optimizer_state(
    folder: Path, tensors: Mapping[str, Tensor], mesh: Mesh, sharding_group: ProcessGroup
) -> None:
    """Write this process's file; sharding_group: the ranks that own parts of the state (degree 1: none)."""
    name = f"optimizer-tp{mesh.tensor.rank:02d}-of-{mesh.tensor.degree:02d}"
    if sharding_group.degree > 1:
        name += f"-dp{sharding_group.rank:02d}-of-{sharding_group.degree:02d}"
    write_safetensors(folder / f"{name}.safetensors", dict(lazy_tensors(tensors.items())))


class StoredOptimizerState:
    """The optimizer's state in a checkpoint, as one tensor-parallel rank needs it.

    names: of all tensors, `HUB_NAME/KIND`.
    """

    def __init__(self, folder: Path, specs: Mapping[str, ParameterSpec], group: ProcessGroup) -> None:
        """specs: {hub name: spec}. group: this run's tensor-parallel ranks; the files may be of others."""
        self.folder, self._specs, self._group = folder, specs, group
        shards: dict[int, dict[str, Array]] = {}
        for path in sorted(folder.iterdir()):
            if match := _FILE_NAME.fullmatch(path.name):
                shards.setdefault(int(match[1]), {}).update(open_safetensors(path))
        self._shards = [shards[rank] for rank in sorted(shards)]
        self.names: set[str] = set().union(*self._shards)

    def read(self, name: str) -> Array:
        """The tensor `HUB_NAME/KIND`, sharded for this rank. Raises `InputError` for one of another shape."""
        shards = [shard[name] for shard in self._shards]
        if len(shards) == self._group.degree:
            return shards[self._group.rank]
        spec = self._specs[parameter_name(name)]
        if spec.sharding.axis is None or shards[0].size == 1:  # the powers of AdamW's betas are numbers
            return shards[0]
        for rank, shard in enumerate(shards):
            expected = spec.sharding.local_shape(spec.shape, rank, len(shards))
            if shard.shape != expected:
                raise InputError(f"{self.folder}: {name} has shape {shard.shape}, expected {expected}")
        shape = spec.sharding.local_shape(spec.shape, self._group.rank, self._group.degree)
        result = np.zeros(shape, shards[0].dtype)
        for step in spec.sharding.reshard_plan(len(shards), self._group.rank, self._group.degree):
            apply_copy(step, spec.sharding.axis, shards[step.source_rank], result)
        return result
