"""How PaddleNLP stores ChatGLM2 and ChatGLM3 (paddlenlp/transformers/chatglm_v2).

Its older checkpoints hold query, key and value apart and SwiGLU's halves in alternating columns
(chatglm-legacy-checkpoints-convert.py in that folder).
"""

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.paddlenlp_format import PaddleNLPFormat


def inv_freq(head_dim: int) -> Array:
    """Rotary frequencies, float32 [head_dim / 4]: half of each head is rotated, in pairs of channels.

    PaddleNLP warns if a file lacks them; it computes its own and never uses these.
    """
    dim = head_dim // 2
    return 1 / 10000 ** (np.arange(0, dim, 2, dtype=np.float32) / dim)


FORMAT = PaddleNLPFormat(
    model_type="chatglm_v2",
    model_class="ChatGLMv2ForCausalLM",
    tokenizer_class="ChatGLMv2Tokenizer",
    own_keys=frozenset({"multi_query_group_num"}),
    renamed_keys={"vocab_size": "padded_vocab_size", "max_sequence_length": "seq_length"},
    key_defaults={"add_qkv_bias": False, "multi_query_group_num": 1},
    fixed_keys={"multi_query_attention": True, "rope_ratio": 1},
    prefix="chatglm_v2.",
    hub_prefix="transformer.",
    unprefixed_starts=("embedding.", "encoder.", "output_layer."),
    not_transposed=frozenset({"transformer.embedding.word_embeddings.weight"}),
    buffers={"transformer.rotary_pos_emb.inv_freq": inv_freq},
    legacy_fused={
        "self_attention.query_key_value": (
            "self_attention.query",
            "self_attention.key",
            "self_attention.value",
        )
    },
    legacy_alternating=("mlp.dense_h_to_4h",),
)
