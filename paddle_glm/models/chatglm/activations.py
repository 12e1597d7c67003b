"""What a block of ChatGLM-6B keeps for backward."""

from paddle_glm.models.family import BlockActivations

BLOCK_ACTIVATIONS = BlockActivations(
    blocks="transformer.layers",
    linear_modules=(
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ),
    ffn_inputs=1,  # GELU
    norm_statistics=2,  # LayerNorm
)
