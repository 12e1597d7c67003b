"""`AutoModel`: loads a model folder of any family, or builds a random model from a configuration."""

from pathlib import Path
from typing import Any

from paddle_glm.array_types import Array
from paddle_glm.auto.load_options import LoadOptions, to_model_config
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.quantize_on_load import quantize_on_load
from paddle_glm.config import ModelConfig
from paddle_glm.hardware import device_name, use_device
from paddle_glm.hub import resolve_model_folder
from paddle_glm.load_memory import LoadRequest, select_dtype
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dtype_mixin import canonical_dtype_name
from paddle_glm.models.family import family_of
from paddle_glm.models.initialization import initial_value
from paddle_glm.numpy_interop import writable_array
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.memory import memory_budget
from paddle_glm.peft.lora import load_lora
from paddle_glm.peft.prefix import attach_prefix_encoder, load_prefix
from paddle_glm.quantization import quantization_of, quantize, weight_name
from paddle_glm.sharding import Sharding


class AutoModel:
    """Builds the `CausalLM` of a folder's or configuration's family."""

    @staticmethod
    def from_pretrained(
        path: str | Path,
        dtype: str = "auto",
        group: ProcessGroup = SINGLE_PROCESS,
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

        dtype: of the weights in memory ("float32", "float16", "bfloat16"), or "auto": the folder's own, or
            float32 for half precision on a CPU with enough memory and without native kernels
            (`load_memory.select_dtype`).
        group: this process's tensor-parallel group; only this rank's slices are read.
        family: overrides the family that the folder's files name.
        ptuning_checkpoint: folder of a P-Tuning v2 prefix, ours or THUDM's.
        lora_path: folder of LoRA adapters, ours or PEFT's.
        quantization_bit: 4 or 8 quantises float weights while they are read; the float model is never in
            memory. None loads the folder as it is.
        quantization_group_size, quantization_embeddings: as for `CausalLM.quantize`.
        config: the folder's own configuration, with another prefix, quantisation or dtype.
        device: "gpu", "cuda:0", "cpu" or "auto"; it becomes Paddle's current device. None keeps the current.
        revision, download, cache_dir: as for `hub.resolve_model_folder`.
        keywords: `pre_seq_len` and `prefix_projection` attach a prefix, untrained where the folder has none;
            those of other libraries, as `LoadOptions` reads them. `trust_remote_code` has no effect: code in
            a folder is never run.
        Raises `InputError` for a folder with wrong names or shapes or another quantisation, for keywords that
        cannot be honoured, and for a model that does not fit into the device's memory.
        """
        quantization = (quantization_bit, quantization_group_size, quantization_embeddings)
        place = None if device is None else device_name(device)
        options = LoadOptions(canonical_dtype_name(dtype), place, *quantization).with_keywords(keywords)
        if options.device is not None:
            use_device(options.device)
        folder = resolve_model_folder(path, download, revision, cache_dir)
        checkpoint = open_checkpoint(folder, family=family or getattr(config, "family", None))
        checkpoint.validate()
        options = options.with_config(config, checkpoint.config, folder)
        source = quantize_on_load(
            checkpoint,
            options.quantization_bit,
            options.quantization_group_size,
            options.quantization_embeddings,
        )
        request = LoadRequest(
            Path(path).resolve().name, checkpoint.config, checkpoint.float_dtype, source.config
        )
        dtype = select_dtype(request, options.dtype, memory_budget(group))
        model = _build_model(source.config, dtype, group)
        model.load_weights(source)
        if ptuning_checkpoint is not None:
            load_prefix(model, ptuning_checkpoint)
        options.attach_requested_prefix(model)
        if lora_path is not None:
            load_lora(model, lora_path)
        return model

    @staticmethod
    def from_config(
        config: ModelConfig,
        dtype: Any = "float32",
        group: ProcessGroup = SINGLE_PROCESS,
        seed: int = 0,
        trust_remote_code: bool = False,
    ) -> CausalLM:
        """A randomly initialised model: weights normal(0, 0.02), norms 1, biases 0.

        Each parameter depends on `seed` and its name alone, so it is the same at every tensor-parallel
        degree. trust_remote_code has no effect, as in `from_pretrained`.
        """
        config = to_model_config(config)
        model = _build_model(config, canonical_dtype_name(dtype), group)
        for name, parameter in model.named_parameters():
            whole, sharding = _initial_parameter(config, name, seed)
            with writable_array(parameter) as values:
                values[...] = sharding.split(whole, group.rank, group.degree)
        return model


def _initial_parameter(config: ModelConfig, name: str, seed: int) -> tuple[Array, Sharding]:
    """A full random parameter and its sharding; a quantised one is the random float parameter, quantised."""
    family, quantization = family_of(config), quantization_of(config)
    floats, sharding = family.float_parameters(config), family.parameters(config)[name].sharding
    weight = weight_name(name)
    values = initial_value(weight, floats[weight].shape, seed)
    if quantization is None or not quantization.applies_to(floats[weight]):
        return values, sharding
    integers, scale = quantize(values, quantization.bits, quantization.group_size)
    return (integers if name == weight else scale), sharding


def _build_model(config: ModelConfig, dtype: str, group: ProcessGroup) -> CausalLM:
    model: CausalLM = family_of(config).model_class()(config, dtype, group)
    model.eval()
    if config.pre_seq_len is not None:
        attach_prefix_encoder(model)
    return model
