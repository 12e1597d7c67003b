"""The parameters of the toy family."""

from paddle_glm.config import ModelConfig
from paddle_glm.sharding import (
    REPLICATED,
    ParameterSpec,
    Segment,
    Sharding,
    column_parallel,
    row_parallel,
    vocab_parallel,
)


def qkv(config: ModelConfig) -> Sharding:
    """Rows of the fused projection: head by head, each its query, key and value."""
    return column_parallel(Segment(3 * config.hidden_size, config.num_attention_heads))


def heads(config: ModelConfig) -> Sharding:
    return row_parallel(Segment(config.hidden_size, config.num_attention_heads))


def ffn(config: ModelConfig) -> Segment:
    return Segment(config.ffn_hidden_size, config.ffn_hidden_size)


def parameters(config: ModelConfig) -> dict[str, ParameterSpec]:
    hidden, width, vocab = config.hidden_size, config.ffn_hidden_size, config.vocab_size
    norm = ParameterSpec((hidden,), REPLICATED)
    words = ParameterSpec((vocab, hidden), vocab_parallel(vocab))
    layer = {
        "norm1.weight": norm,
        "attention.qkv.weight": ParameterSpec((3 * hidden, hidden), qkv(config)),
        "attention.out.weight": ParameterSpec((hidden, hidden), heads(config)),
        "norm2.weight": norm,
        "up.weight": ParameterSpec((width, hidden), column_parallel(ffn(config))),
        "down.weight": ParameterSpec((hidden, width), row_parallel(ffn(config))),
    }
    table = {"words.weight": words, "norm.weight": norm, "lm_head.weight": words}
    for index in range(config.num_layers):
        table.update({f"layers.{index}.{name}": spec for name, spec in layer.items()})
    return table
