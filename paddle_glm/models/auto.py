"""`AutoModel`: the model of whatever folder is given."""

from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_glm.arrays import to_fill
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.quantizing import quantizing
from paddle_glm.config import ModelConfig
from paddle_glm.families import family_of
from paddle_glm.families.initial import initial_value
from paddle_glm.hardware import free_memory, local_processes, use_device
from paddle_glm.hub import folder_of
from paddle_glm.memory import Opening, Room, choose_dtype
from paddle_glm.models.base import CausalLM
from paddle_glm.models.casting import dtype_named
from paddle_glm.models.loading import Loading, as_config
from paddle_glm.models.placement import device_named
from paddle_glm.parallel import SINGLE, TPGroup
from paddle_glm.parallel.ops import all_reduce
from paddle_glm.peft.lora import load_lora
from paddle_glm.peft.prefix import attach_encoder, load_prefix
from paddle_glm.quantization import quantization_of, quantize, weight_of
from paddle_glm.sharding import Sharding


class AutoModel:
    """Makes the right `CausalLM` for a folder or a configuration."""

    @staticmethod
    def from_pretrained(
        path: str | Path,
        dtype: str = "auto",
        group: TPGroup = SINGLE,
        family: str | None = None,
        ptuning_checkpoint: str | Path | None = None,
        lora_path: str | Path | None = None,
        quantization_bit: int | None = None,
        quantization_group_size: int | None = None,
        quantization_embeddings: bool = False,
        *,
        config: Any = None,
        device: Any = None,
        revision: str | None = None,
        download: bool | str | None = None,
        cache_dir: str | Path | None = None,
        **keywords: Any,
    ) -> CausalLM:
        """Load a hub folder, a merged folder or a folder of tensor-parallel shards, in evaluation mode.

        dtype: what weights are stored in here ("float32", "float16", "bfloat16"), or "auto": the folder's
            own, or float32 for half precision on a CPU with memory to spare (`memory.resolve_dtype`).
            group: this process's place among those that share the model; only its own
            slices are read. ptuning_checkpoint: folder of a prefix to put in front, ours or THUDM's.
            lora_path: folder of LoRA adapters to put beside its weights, ours or PEFT's.
            quantization_bit: 4 or 8 quantises float weights while they are read, so that the float model
            is never in memory; None takes the folder as it is. quantization_group_size and
            quantization_embeddings: as those of `CausalLM.quantize`. config: the folder's own, with another
            prefix, bits or dtype. device: "gpu", "cuda:0", "cpu" or "auto", Paddle's current device from then
            on; None takes that one. revision, download, cache_dir: as `hub.folder_of`.
            keywords: `pre_seq_len` and `prefix_projection`, a prefix in front, untrained where the folder has
            none; those of other libraries, as `Loading` reads them. `trust_remote_code` changes nothing: no
            code of a folder is run.
            Raises `InputError` for a folder whose names or shapes are wrong, or quantised otherwise, for
            keywords that cannot be honoured, and where the model does not fit into the device's memory.
        """
        quantization = (quantization_bit, quantization_group_size, quantization_embeddings)
        place = None if device is None else device_named(device)
        wanted = Loading(dtype_named(dtype), place, *quantization).with_keywords(keywords)
        if wanted.device is not None:
            use_device(wanted.device)
        folder = folder_of(path, download, revision, cache_dir)
        checkpoint = open_checkpoint(folder, family=family or getattr(config, "family", None))
        checkpoint.validate()
        wanted = wanted.with_config(config, checkpoint.config, folder)
        source = quantizing(
            checkpoint,
            wanted.quantization_bit,
            wanted.quantization_group_size,
            wanted.quantization_embeddings,
        )
        opening = Opening(Path(path).resolve().name, checkpoint.config, checkpoint.float_dtype, source.config)
        dtype = choose_dtype(opening, wanted.dtype, room_of(group))
        model = _empty(source.config, dtype, group)
        model.fill(source)
        if ptuning_checkpoint is not None:
            load_prefix(model, ptuning_checkpoint)
        wanted.give_prefix(model)
        if lora_path is not None:
            load_lora(model, lora_path)
        return model

    @staticmethod
    def from_config(
        config: ModelConfig,
        dtype: Any = "float32",
        group: TPGroup = SINGLE,
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> CausalLM:
        """A randomly initialised model: weights normal(0, 0.02), norms 1, biases 0.

        trust_remote_code changes nothing, as in `from_pretrained`.

        The numbers depend on `seed` and the parameter's name alone, so every degree of tensor
        parallelism starts from the same model.
        """
        config = as_config(config)
        model = _empty(config, dtype_named(dtype), group)
        for name, parameter in model.named_parameters():
            whole, sharding = _initial(config, name, seed)
            with to_fill(parameter) as values:
                values[...] = sharding.split(whole, group.rank, group.degree)
        return model


def _initial(config: ModelConfig, name: str, seed: int) -> tuple[np.ndarray, Sharding]:
    """A whole parameter of a random model and how it is cut; of integers, those of the float model's."""
    family, quantization = family_of(config), quantization_of(config)
    floats, sharding = family.float_parameters(config), family.parameters(config)[name].sharding
    weight = weight_of(name)
    values = initial_value(weight, floats[weight].shape, seed)
    if quantization is None or not quantization.applies_to(floats[weight]):
        return values, sharding
    integers, scale = quantize(values, quantization.bits, quantization.group_size)
    return (integers if name == weight else scale), sharding


def room_of(group: TPGroup) -> Room:
    """The room on Paddle's current device; all processes of the group see the least that one of them has."""
    device = paddle.get_device()
    free = paddle.to_tensor([free_memory(device)], dtype="int64")
    if group.handle is not None:
        free = all_reduce(free, group, paddle.distributed.ReduceOp.MIN)
    sharing = local_processes() if device == "cpu" else 1
    return Room(device, int(free), group.degree, sharing, says=group.rank == 0)


def _empty(config: ModelConfig, dtype: str, group: TPGroup) -> CausalLM:
    model: Any = family_of(config).model_class()(config, dtype, group)
    model.eval()
    if config.pre_seq_len is not None:
        attach_encoder(model)
    return model
