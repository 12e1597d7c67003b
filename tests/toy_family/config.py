"""`config.json` of the toy family: keys of its own, every head with its own keys and values."""

from paddle_glm.config_keys import COMMON_RULES, ConfigSchema, mapped
from paddle_glm.key_rules import Restricted

SCHEMA = ConfigSchema(
    title="Toy",
    model_type="toy",
    class_name="ToyForCausalLM",
    own_keys=frozenset({"toy_width"}),
    rules={
        **COMMON_RULES,
        **mapped("vocab_size", toy_width="ffn_hidden_size", toy_context="max_sequence_length"),
        "toy_activation": Restricted(("gelu",)),
    },
    required=(
        *("num_layers", "hidden_size", "num_attention_heads", "toy_width"),
        *("toy_context", "vocab_size", "layernorm_epsilon"),
    ),
    derive=lambda found: {
        "num_key_value_heads": found["num_attention_heads"],
        "head_dim": found["hidden_size"] // found["num_attention_heads"],
    },
)
