"""Rules for every key of PEFT's LoraConfig in `adapter_config.json`."""

from typing import Any

from paddle_glm.key_rules import (
    BOOLEAN,
    FRACTION,
    POSITIVE_INT,
    POSITIVE_NUMBER,
    Ignored,
    Mapped,
    Restricted,
    Rules,
    ValueType,
)

DEFAULT_TARGET_MODULES = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")

_TARGET_MODULES = ValueType(
    "a list of layer names, or a regular expression",
    lambda value: isinstance(value, tuple) and all(isinstance(target, str) for target in value),
)


def _parse_target_modules(value: Any) -> Any:
    if value == "all-linear":  # in PEFT all linear layers but the head
        return DEFAULT_TARGET_MODULES
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _pattern_mapping(kind: ValueType) -> ValueType:
    return ValueType(
        f"an object that maps patterns to {kind.description}",
        lambda value: isinstance(value, dict) and all(map(kind.accepts, value.values())),
    )


_INITIALISATION_ONLY = "only used to initialise training"
_KNOWN_FROM_TENSORS = "the tensor names show which layers have an adapter"
_METADATA_ONLY = "metadata without effect on the computation"
RULES: Rules = {
    "r": Mapped("rank", POSITIVE_INT),
    "lora_alpha": Mapped("alpha", POSITIVE_NUMBER),
    "lora_dropout": Mapped("dropout", FRACTION),
    "target_modules": Mapped("target_modules", _TARGET_MODULES, _parse_target_modules),
    "use_rslora": Mapped("use_rslora", BOOLEAN),
    "rank_pattern": Mapped("rank_pattern", _pattern_mapping(POSITIVE_INT)),
    "alpha_pattern": Mapped("alpha_pattern", _pattern_mapping(POSITIVE_NUMBER)),
    "peft_type": Restricted(("LORA",)),
    "bias": Restricted(("none",)),
    "lora_bias": Restricted((False,)),
    "use_dora": Restricted((False,)),
    "use_qalora": Restricted((False,)),
    "use_bdlora": Restricted((False,)),
    "fan_in_fan_out": Restricted((False,)),
    "modules_to_save": Restricted(([],)),
    "layers_to_transform": Restricted(([],)),
    "layer_replication": Restricted(([],)),
    "target_parameters": Restricted(([],)),
    "trainable_token_indices": Restricted(([], {})),
    "alora_invocation_tokens": Restricted(([],)),
    "enable_lora": Restricted(([],)),
    "arrow_config": Restricted(({},)),
    "kasa_config": Restricted(({},)),
    "monteclora_config": Restricted(({},)),
    "megatron_config": Restricted(({},)),
    # Others (pissa, olora, loftq, corda, lora_ga) change the base weights.
    "init_lora_weights": Restricted((True, False, "gaussian", "eva", "orthogonal")),
    "eva_config": Ignored(_INITIALISATION_ONLY),
    "loftq_config": Ignored(f"{_INITIALISATION_ONLY}, and init_lora_weights 'loftq' is refused"),
    "corda_config": Ignored(f"{_INITIALISATION_ONLY}, and init_lora_weights 'corda' is refused"),
    "exclude_modules": Ignored(_KNOWN_FROM_TENSORS),
    "layers_pattern": Ignored("belongs to layers_to_transform"),
    "qalora_group_size": Ignored("belongs to use_qalora"),
    "megatron_core": Ignored("belongs to megatron_config"),
    "merge_weights": Ignored("belongs to enable_lora"),
    "inference_mode": Ignored(_METADATA_ONLY),
    "task_type": Ignored(_METADATA_ONLY),
    "auto_mapping": Ignored(_METADATA_ONLY),
    "base_model_name_or_path": Ignored(_METADATA_ONLY),
    "revision": Ignored(_METADATA_ONLY),
    "runtime_config": Ignored(_METADATA_ONLY),
}
