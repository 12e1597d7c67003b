"""The parameters of ChatGLM-6B and how tensor parallelism shards them."""

from paddle_glm.config import ModelConfig
from paddle_glm.models.prefix_encoder import prefix_parameters
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
    """Rows of the fused projection: query, key and value of head 0, of head 1, ..."""
    return column_parallel(Segment(3 * config.hidden_size, config.num_attention_heads))


def ffn_input(config: ModelConfig) -> Sharding:
    return column_parallel(Segment(config.ffn_hidden_size, config.ffn_hidden_size))


def attention_output(config: ModelConfig) -> Sharding:
    return row_parallel(Segment(config.hidden_size, config.num_attention_heads))


def ffn_output(config: ModelConfig) -> Sharding:
    return row_parallel(Segment(config.ffn_hidden_size, config.ffn_hidden_size))


def parameters(config: ModelConfig) -> dict[str, ParameterSpec]:
    """Hub name -> spec; weights are [out_features, in_features]. The LM head is tied to the embedding."""
    hidden, ffn, vocab = config.hidden_size, config.ffn_hidden_size, config.vocab_size
    whole = ParameterSpec((hidden,), REPLICATED)
    layer = {
        "input_layernorm.weight": whole,
        "input_layernorm.bias": whole,
        "attention.query_key_value.weight": ParameterSpec((3 * hidden, hidden), query_key_value(config)),
        "attention.query_key_value.bias": ParameterSpec((3 * hidden,), query_key_value(config)),
        "attention.dense.weight": ParameterSpec((hidden, hidden), attention_output(config)),
        "attention.dense.bias": whole,
        "post_attention_layernorm.weight": whole,
        "post_attention_layernorm.bias": whole,
        "mlp.dense_h_to_4h.weight": ParameterSpec((ffn, hidden), ffn_input(config)),
        "mlp.dense_h_to_4h.bias": ParameterSpec((ffn,), ffn_input(config)),
        "mlp.dense_4h_to_h.weight": ParameterSpec((hidden, ffn), ffn_output(config)),
        "mlp.dense_4h_to_h.bias": whole,
    }
    table = {"transformer.word_embeddings.weight": ParameterSpec((vocab, hidden), vocab_parallel(vocab))}
    for index in range(config.num_layers):
        table.update({f"transformer.layers.{index}.{name}": spec for name, spec in layer.items()})
    table["transformer.final_layernorm.weight"] = whole
    table["transformer.final_layernorm.bias"] = whole
    return table | prefix_parameters(config, width=hidden)
