"""PaddleNLP's config.json and THUDM's: their keys, and the one table between them."""

from collections.abc import Mapping
from typing import Any

from paddle_glm.errors import InputError

# PaddleNLP's key -> THUDM's; it accepts the latter too.
_KEY_MAP = {"num_hidden_layers": "num_layers", "dtype": "torch_dtype"}
_KEY_MAP_V2 = {**_KEY_MAP, "vocab_size": "padded_vocab_size", "max_sequence_length": "seq_length"}
# What its classes assume where a file does not say.
_DEFAULTS: dict[str, Any] = {"torch_dtype": "float32"}
_DEFAULTS_V2: dict[str, Any] = {**_DEFAULTS, "add_qkv_bias": False, "multi_query_group_num": 1}
# Keys of THUDM's that its classes do not read; another value is another computation there.
_FIXED_KEYS_V2 = {"multi_query_attention": True, "rope_ratio": 1}
# Its keys that mean nothing to others.
_PADDLENLP_KEYS = {
    "paddlenlp_version", "tensor_parallel_degree", "tensor_parallel_rank", "tensor_parallel_output",
    "long_sequence_init_args", "long_sequence_strategy_name", "long_sequence_strategy_type",
    "output_predict", "prefix_projection", "architectures", "model_type",
}  # fmt: skip
# Switches that its classes have and THUDM's have not; another value is another computation.
_FIXED_KEYS = {"use_long_sequence_strategies": False, "activation": "gelu", "attention_scale": True}
_V2_TYPE = "chatglm_v2"


def is_paddlenlp(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is written by PaddleNLP."""
    renamed = "num_hidden_layers" in values and "num_layers" not in values
    return values.get("model_type") == _V2_TYPE or "paddlenlp_version" in values or renamed


def to_hub(values: Mapping[str, Any]) -> dict[str, Any]:
    """THUDM's keys for PaddleNLP's; raises InputError for a switch that names another computation."""
    is_v2 = "multi_query_group_num" in values or values.get("model_type") == _V2_TYPE
    renamed = _KEY_MAP_V2 if is_v2 else _KEY_MAP
    found = {renamed.get(key, key): value for key, value in values.items() if key not in _PADDLENLP_KEYS}
    for key, expected in _FIXED_KEYS.items():
        if (value := found.pop(key, expected)) != expected:
            raise InputError(f"config.json says {key} = {value!r}; only {expected!r} is supported")
    if not is_v2:
        return {**_DEFAULTS, **found}
    check_expressible(found)
    return {**_DEFAULTS_V2, **_FIXED_KEYS_V2, **found}


def check_expressible(values: Mapping[str, Any]) -> None:
    """Raise InputError where THUDM's keys say what PaddleNLP's classes do not compute."""
    for key, expected in _FIXED_KEYS_V2.items():
        if values.get(key, expected) != expected:
            raise InputError(
                f"config.json says {key} = {values[key]!r}: PaddleNLP's classes do not read it and compute "
                f"what {expected!r} means; use safetensors or bin"
            )


def from_hub(values: Mapping[str, Any], degree: int) -> dict[str, Any]:
    """PaddleNLP's keys for THUDM's; `degree` is that of the shards beside the file."""
    is_v2 = "padded_vocab_size" in values
    renamed = {hub: own for own, hub in (_KEY_MAP_V2 if is_v2 else _KEY_MAP).items()}
    dropped = {"auto_map", "transformers_version", "_name_or_path"}
    found = {renamed.get(key, key): value for key, value in values.items() if key not in dropped}
    found["architectures"] = ["ChatGLMv2ForCausalLM" if is_v2 else "ChatGLMForCausalLM"]
    found["model_type"] = _V2_TYPE if is_v2 else "chatglm"
    found["paddlenlp_version"] = None
    if degree > 1:
        found["tensor_parallel_degree"] = degree
    return found
