"""`config.json` of ChatGLM-6B: what is made of its keys, and the released model's.

The keys are those that configuration_chatglm.py and modeling_chatglm.py of THUDM/chatglm-6b read.
"""

from collections.abc import Mapping
from typing import Any

from paddle_glm.config_keys import COMMON_RULES, CONFIG_FILE, ConfigSchema, mapped
from paddle_glm.errors import InputError
from paddle_glm.key_rules import Restricted
from paddle_glm.models.chatglm.paddlenlp import FORMAT

RELEASED: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 130528,
}


def _derive_heads(found: Mapping[str, Any]) -> dict[str, Any]:
    """Every head has keys and values of its own."""
    hidden, heads = found["hidden_size"], found["num_attention_heads"]
    if hidden % heads:
        raise InputError(
            f"{CONFIG_FILE} says hidden_size = {hidden}: "
            f"{hidden} is not a multiple of num_attention_heads {heads}"
        )
    return {"num_key_value_heads": heads, "head_dim": hidden // heads}


SCHEMA = ConfigSchema(
    title="ChatGLM-6B",
    model_type="chatglm",
    class_name="ChatGLMForConditionalGeneration",
    own_keys=frozenset({"inner_hidden_size", "position_encoding_2d"}),
    rules={
        **COMMON_RULES,
        **mapped("vocab_size", "max_sequence_length", "position_encoding_2d", "bos_token_id"),
        **mapped("mask_token_id", "gmask_token_id", inner_hidden_size="ffn_hidden_size"),
        "tie_word_embeddings": Restricted((True,)),
    },
    required=(
        *("num_layers", "hidden_size", "num_attention_heads", "inner_hidden_size", "vocab_size"),
        *("max_sequence_length", "layernorm_epsilon", "position_encoding_2d", "bos_token_id", "eos_token_id"),
    ),
    derive=_derive_heads,
    paddlenlp=FORMAT,
    released={"chatglm-6b": RELEASED},
)
