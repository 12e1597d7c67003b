"""The parameters of ChatGLM2 and ChatGLM3 and how tensor parallelism shards them."""

from paddle_glm.config import ModelConfig
from paddle_glm.models.prefix_encoder import prefix_kv_size, prefix_parameters
from paddle_glm.sharding import (
    REPLICATED,
    ParameterSpec,
    Segment,
    Sharding,
    column_parallel,
    row_parallel,
    vocab_parallel,
)


def query_key_value(config: ModelConfig) -> Sharding:
    """Rows of the fused projection: all query heads, all key heads, all value heads.

    Without `multi_query_attention`: query, key and value of head 0, of head 1, ...
    """
    heads, groups, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    if not config.multi_query_attention:
        return column_parallel(Segment(3 * heads * dim, heads))
    return column_parallel(
        Segment(heads * dim, heads), Segment(groups * dim, groups), Segment(groups * dim, groups)
    )


def gate_up(config: ModelConfig) -> Sharding:
    """Rows of SwiGLU's fused projection: gate, then up."""
    ffn = config.ffn_hidden_size
    return column_parallel(Segment(ffn, ffn), Segment(ffn, ffn))


def attention_output(config: ModelConfig) -> Sharding:
    heads = config.num_attention_heads
    return row_parallel(Segment(heads * config.head_dim, heads))


def ffn_output(config: ModelConfig) -> Sharding:
    return row_parallel(Segment(config.ffn_hidden_size, config.ffn_hidden_size))


def parameters(config: ModelConfig) -> dict[str, ParameterSpec]:
    """Hub name -> spec; weights are [out_features, in_features]."""
    hidden, ffn, vocab = config.hidden_size, config.ffn_hidden_size, config.vocab_size
    heads = config.num_attention_heads * config.head_dim
    fused = heads + 2 * config.num_key_value_heads * config.head_dim
    norm = ParameterSpec((hidden,), REPLICATED)
    words = ParameterSpec((vocab, hidden), vocab_parallel(vocab))
    layer = {
        "input_layernorm.weight": norm,
        "self_attention.query_key_value.weight": ParameterSpec((fused, hidden), query_key_value(config)),
        "self_attention.dense.weight": ParameterSpec((hidden, heads), attention_output(config)),
        "post_attention_layernorm.weight": norm,
        "mlp.dense_h_to_4h.weight": ParameterSpec((2 * ffn, hidden), gate_up(config)),
        "mlp.dense_4h_to_h.weight": ParameterSpec((hidden, ffn), ffn_output(config)),
    }
    if config.add_qkv_bias:
        layer["self_attention.query_key_value.bias"] = ParameterSpec((fused,), query_key_value(config))
    table = {"transformer.embedding.word_embeddings.weight": words}
    for index in range(config.num_layers):
        table.update({f"transformer.encoder.layers.{index}.{name}": spec for name, spec in layer.items()})
    table["transformer.encoder.final_layernorm.weight"] = norm
    table["transformer.output_layer.weight"] = words
    return table | prefix_parameters(config, width=prefix_kv_size(config))
