"""The options of `AutoModel.from_pretrained`: our keywords, those of other libraries, and a configuration."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from paddle_glm.auto.config import AutoConfig
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.hardware import device_name, gpu_count
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dtype_mixin import canonical_dtype_name
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.pretrained_kwargs import supported_kwargs

_PREFIX_FIELDS = ("pre_seq_len", "prefix_projection")
_QUANTIZATION_FIELDS = ("quantization_bit", "quantization_group_size", "quantization_embeddings")
# Keywords of other libraries that are translated to ours.
_FOREIGN_KEYWORDS = ("torch_dtype", "device_map", "quantization_config", "load_in_8bit", "load_in_4bit")


@dataclass(frozen=True)
class LoadOptions:
    """How to load a folder; None means as the folder is."""

    dtype: str = "auto"
    device: str | None = None
    quantization_bit: int | None = None
    quantization_group_size: int | None = None
    quantization_embeddings: bool = False
    pre_seq_len: int | None = None
    prefix_projection: bool | None = None

    def with_keywords(self, keywords: Mapping[str, Any]) -> "LoadOptions":
        """With `pre_seq_len`, `prefix_projection` and the keywords of other libraries applied.

        Raises `InputError` for unknown keywords, keywords that cannot be honoured, and contradictions.
        """
        options = self
        for name, value in supported_kwargs(keywords, (*_PREFIX_FIELDS, *_FOREIGN_KEYWORDS)).items():
            if value is None:
                continue
            for ours, option_value in _translate_keyword(name, value).items():
                held = getattr(options, ours)
                if held not in (_DEFAULTS[ours], option_value):
                    raise InputError(f"{name}={value!r} and {ours} {held!r} contradict each other: give one")
                options = replace(options, **{ours: option_value})
        if options.prefix_projection is not None and options.pre_seq_len is None:
            raise InputError("prefix_projection needs pre_seq_len, the length of the prefix")
        return options

    def with_config(self, config: Any, held: ModelConfig, folder: str | Path) -> "LoadOptions":
        """With the prefix, quantisation and dtype of `config` where they differ from the folder's.

        held: the folder's own configuration. Raises `InputError` for a configuration of another model, and
        for one that contradicts the keywords.
        """
        if config is None:
            return self
        asked = to_model_config(config, held.family)
        changed = {
            field.name: getattr(asked, field.name)
            for field in fields(ModelConfig)
            if field.compare and getattr(asked, field.name) != getattr(held, field.name)
        }
        if "quantization_group_size" in changed:
            changed["quantization_group_size"] = changed["quantization_group_size"] or 0
        for name, value in changed.items():
            # A prefix or quantisation that the folder holds cannot be removed.
            lost = name in ("pre_seq_len", "quantization_bit") and not value
            if lost or name not in (*_PREFIX_FIELDS, *_QUANTIZATION_FIELDS, "dtype"):
                raise InputError(
                    f"config says {name} = {value!r}, {folder} {getattr(held, name)!r}: give the "
                    "configuration of this folder, AutoConfig.from_pretrained(folder)"
                )
        options = self
        for name, value in changed.items():
            given = getattr(self, name)
            if given not in (_DEFAULTS[name], value):
                raise InputError(f"config says {name} = {value!r}, the keyword {given!r}: give one")
            options = replace(options, **{name: value})
        return options

    def attach_requested_prefix(self, model: CausalLM) -> None:
        """Attach the requested prefix to a model without one, with a warning that it is untrained.

        Raises `InputError` where the model has another prefix.
        """
        if self.pre_seq_len is None:
            return
        had = model.config.pre_seq_len is not None
        projection = self.prefix_projection
        if projection is None:
            projection = had and model.config.prefix_projection
        attach_prefix(model, self.pre_seq_len, projection)
        if not had:
            warnings.warn(
                f"the prefix of {self.pre_seq_len} tokens is untrained: load one by model.transformer"
                ".prefix_encoder.load_state_dict, or give ptuning_checkpoint=FOLDER",
                stacklevel=3,
            )


_DEFAULTS = {field.name: field.default for field in fields(LoadOptions)}


def to_model_config(config: Any, family: str | None = None) -> ModelConfig:
    """Our configuration from one of ours, or of a library whose `to_dict` returns the keys of config.json."""
    if isinstance(config, AutoConfig):
        return config.to_model_config()
    if isinstance(config, ModelConfig):
        return config
    if isinstance(values := _to_mapping(config), Mapping):
        return ModelConfig.from_dict(values, family)
    raise InputError(f"config is a {type(config).__name__}: expected AutoConfig.from_pretrained(folder)")


def _translate_keyword(name: str, value: Any) -> dict[str, Any]:
    if name == "torch_dtype":
        return {"dtype": canonical_dtype_name(value)}
    if name == "device_map":
        return {"device": _single_device(value)}
    if name == "quantization_config":
        return _parse_quantization_config(_to_mapping(value))
    if name in ("load_in_8bit", "load_in_4bit"):
        return _parse_quantization_config({name: value}) if value else {}
    return {name: value}


def _single_device(device_map: Any) -> str:
    """The device of a device_map that names one; raises `InputError` for several."""
    instead = "share the model over GPUs by load_model_on_gpus(path, num_gpus=N)"
    if isinstance(device_map, Mapping):
        devices = {device_name(device) for device in device_map.values()}
        if len(devices) != 1:
            raise InputError(f"device_map over {len(devices)} devices: layers are not spread; {instead}")
        return devices.pop()
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        if (count := gpu_count()) > 1:
            raise InputError(
                f'device_map="{device_map}" with {count} GPUs: layers are not spread; give '
                f'device="gpu:0", or {instead}'
            )
        return "auto"
    return device_name(device_map)


def _to_mapping(given: Any) -> Any:
    return given.to_dict() if hasattr(given, "to_dict") else given


def _parse_quantization_config(values: Any) -> dict[str, Any]:
    """Bits and group size of a configuration of transformers (BitsAndBytesConfig), PaddleNLP or a mapping.

    Our quantisation is symmetric, with a scale per output channel or per group; keys about how bitsandbytes
    stores its weights are ignored.
    """
    if not isinstance(values, Mapping):
        values = vars(values)
    method = str(getattr(values.get("quant_method"), "value", values.get("quant_method") or "bitsandbytes"))
    if method not in ("bitsandbytes", "weight_only"):
        raise InputError(
            f"quantization_config with quant_method {method!r}: run `paddle-glm quantize` (--method gptq) "
            "first and open its folder"
        )
    for name in ("llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload", "modules_to_not_convert"):
        if values.get(name):
            raise InputError(f"quantization_config: {name} is not supported; leave it out")
    algorithm = {"weight_only_int8": 8, "weight_only_int4": 4}.get(values.get("weight_quantize_algo") or "")
    bits = values.get("bits") or algorithm
    if values.get("load_in_4bit") or values.get("load_in_8bit"):
        bits = 4 if values.get("load_in_4bit") else 8
    if bits not in (4, 8):
        raise InputError(
            "quantization_config says no bits: expected bits (4 or 8), load_in_8bit or load_in_4bit"
        )
    size = values.get("group_size")
    return {"quantization_bit": bits, **({} if size in (None, -1) else {"quantization_group_size": size})}
