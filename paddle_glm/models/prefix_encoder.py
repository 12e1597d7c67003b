"""The parameters of P-Tuning v2's prefix encoder (`PrefixEncoder` of modeling_chatglm.py)."""

from paddle_glm.config import ModelConfig
from paddle_glm.sharding import REPLICATED, ParameterSpec

PREFIX_ENCODER = "transformer.prefix_encoder"


def prefix_kv_size(config: ModelConfig) -> int:
    """Elements of the keys and values of one prefix token, over all layers."""
    return 2 * config.num_layers * config.num_key_value_heads * config.head_dim


def prefix_parameters(config: ModelConfig, width: int) -> dict[str, ParameterSpec]:
    """Hub name -> spec of the encoder's parameters, replicated over ranks; none if `pre_seq_len` is None.

    width: of the embedding, if a projection follows it; otherwise the embedding holds keys and values.
    """
    if config.pre_seq_len is None:
        return {}
    size, hidden = prefix_kv_size(config), config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (config.pre_seq_len, size)}
    if config.prefix_projection:
        shapes = {
            "embedding.weight": (config.pre_seq_len, width),
            "trans.0.weight": (hidden, width),
            "trans.0.bias": (hidden,),
            "trans.2.weight": (size, hidden),
            "trans.2.bias": (size,),
        }
    return {f"{PREFIX_ENCODER}.{name}": ParameterSpec(shape, REPLICATED) for name, shape in shapes.items()}
