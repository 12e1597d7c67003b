"""Every key of `adapter_config.json` that PEFT's LoraConfig has, and what is made of it here."""

from typing import Any

from paddle_glm.file_keys import ABOVE_ZERO, FLAG, POSITIVE, SHARE, Honoured, Ignored, Kind, Only, Rules

DEFAULT_TARGETS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")

_TARGETS = Kind(
    "a list of names of layers, or a regular expression",
    lambda value: isinstance(value, tuple) and all(isinstance(target, str) for target in value),
)


def _targets(value: Any) -> Any:
    if value == "all-linear":  # PEFT's word for all but the head
        return DEFAULT_TARGETS
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _by_pattern(kind: Kind) -> Kind:
    return Kind(
        f"an object of patterns, each with {kind.words}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


_BEGINNING = "says how training began; the weights say what it came to"
_TENSORS = "the file's tensors say which layers have an adapter"
_NOT_WEIGHTS = "says where an adapter came from or how it is held, not what it computes"
RULES: Rules = {
    "r": Honoured("rank", POSITIVE),
    "lora_alpha": Honoured("alpha", ABOVE_ZERO),
    "lora_dropout": Honoured("dropout", SHARE),
    "target_modules": Honoured("targets", _TARGETS, _targets),
    "use_rslora": Honoured("rank_stabilized", FLAG),
    "rank_pattern": Honoured("rank_pattern", _by_pattern(POSITIVE)),
    "alpha_pattern": Honoured("alpha_pattern", _by_pattern(ABOVE_ZERO)),
    "peft_type": Only(("LORA",)),
    "bias": Only(("none",)),
    "lora_bias": Only((False,)),
    "use_dora": Only((False,)),
    "use_qalora": Only((False,)),
    "use_bdlora": Only((False,)),
    "fan_in_fan_out": Only((False,)),
    "modules_to_save": Only(([],)),
    "layers_to_transform": Only(([],)),
    "layer_replication": Only(([],)),
    "target_parameters": Only(([],)),
    "trainable_token_indices": Only(([], {})),
    "alora_invocation_tokens": Only(([],)),
    "enable_lora": Only(([],)),
    "arrow_config": Only(({},)),
    "kasa_config": Only(({},)),
    "monteclora_config": Only(({},)),
    "megatron_config": Only(({},)),
    # Others (pissa, olora, loftq, corda, lora_ga) change the weights that the adapter stands beside.
    "init_lora_weights": Only((True, False, "gaussian", "eva", "orthogonal")),
    "eva_config": Ignored(_BEGINNING),
    "loftq_config": Ignored(f"{_BEGINNING}, and init_lora_weights 'loftq' is refused"),
    "corda_config": Ignored(f"{_BEGINNING}, and init_lora_weights 'corda' is refused"),
    "exclude_modules": Ignored(_TENSORS),
    "layers_pattern": Ignored("belongs to layers_to_transform"),
    "qalora_group_size": Ignored("belongs to use_qalora"),
    "megatron_core": Ignored("belongs to megatron_config"),
    "merge_weights": Ignored("belongs to enable_lora"),
    "inference_mode": Ignored(_NOT_WEIGHTS),
    "task_type": Ignored(_NOT_WEIGHTS),
    "auto_mapping": Ignored(_NOT_WEIGHTS),
    "base_model_name_or_path": Ignored(_NOT_WEIGHTS),
    "revision": Ignored(_NOT_WEIGHTS),
    "runtime_config": Ignored(_NOT_WEIGHTS),
}
