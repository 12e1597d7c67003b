"""`config.json` of ChatGLM2-6B: what is made of its keys, and the released model's.

The keys are those that configuration_chatglm.py and modeling_chatglm.py of THUDM/chatglm2-6b read.
"""

from typing import Any

from paddle_glm.config_keys import COMMON_RULES, ConfigSchema, mapped
from paddle_glm.key_rules import Ignored, Restricted
from paddle_glm.models.chatglm2.paddlenlp import FORMAT

# What ChatGLM2-6B and ChatGLM3-6B have in common.
RELEASED_SIZES: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "use_cache": True,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

SCHEMA = ConfigSchema(
    title="ChatGLM2",
    model_type="chatglm",
    class_name="ChatGLMModel",
    own_keys=frozenset({"ffn_hidden_size", "kv_channels", "multi_query_group_num", "padded_vocab_size"}),
    tokenizer_marks=("chatglm2",),
    rules={
        **COMMON_RULES,
        **mapped("ffn_hidden_size", "hidden_dropout", "attention_dropout", "add_qkv_bias"),
        **mapped("multi_query_attention", "rope_ratio", multi_query_group_num="num_key_value_heads"),
        **mapped(kv_channels="head_dim", padded_vocab_size="vocab_size", seq_length="max_sequence_length"),
        "rmsnorm": Restricted((True,)),
        "post_layer_norm": Restricted((True,)),
        "add_bias_linear": Restricted((False,)),
        "apply_residual_connection_post_layernorm": Restricted((False,)),
        "fp32_residual_connection": Restricted((False,)),
        "tie_word_embeddings": Restricted((False,)),
        "interleaved_qkv": Restricted((False,), save_default=False),
        "original_rope": Ignored("passed on by the original and never read", default=True),
        "apply_query_key_layer_scaling": Ignored("divides scores and multiplies them again"),
        "attention_softmax_in_fp32": Ignored("softmax is float32 here, as with PyTorch 2 there"),
        "bias_dropout_fusion": Ignored("one kernel or two for the same numbers"),
        "classifier_dropout": Ignored("belongs to a classification head, whose weights are refused"),
        "vocab_size": Ignored("the original computes with padded_vocab_size"),
    },
    required=(
        *("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "kv_channels"),
        *("padded_vocab_size", "seq_length", "layernorm_epsilon"),
    ),
    defaults={"add_qkv_bias": False, "multi_query_attention": False, "num_key_value_heads": 1},
    derive=lambda found: (
        {}
        if found["multi_query_attention"]
        # The number of groups that a file names is not read then.
        else {"num_key_value_heads": found["num_attention_heads"]}
    ),
    # ChatGLM2 divides positions by it, ChatGLM3 multiplies the base of the frequencies.
    ambiguous_keys={"rope_ratio": 1},
    paddlenlp=FORMAT,
    released={"chatglm2-6b": {"_name_or_path": "THUDM/chatglm2-6b", **RELEASED_SIZES, "seq_length": 32768}},
)
