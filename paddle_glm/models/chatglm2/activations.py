"""What a block of ChatGLM2 or ChatGLM3 keeps for backward."""

from paddle_glm.models.family import BlockActivations

BLOCK_ACTIVATIONS = BlockActivations(
    blocks="transformer.encoder.layers",
    linear_modules=(
        "self_attention.query_key_value",
        "self_attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ),
    ffn_inputs=2,  # SwiGLU
    norm_statistics=1,  # RMSNorm
)
