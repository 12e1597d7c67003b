"""What THUDM's ChatGLM2 and ChatGLM3 compute, stated once more in numpy and float64, token by token.

It follows the published description alone (pre-norm blocks, rotary positions of neighbouring channels on half
of each head, SwiGLU) and shares no code with the package, so that both can be wrong only in different ways.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


def logits(
    weights: Weights, config: Mapping[str, Any], ids: np.ndarray, prefix: np.ndarray | None = None
) -> np.ndarray:
    """float64 [tokens, vocab] of one unpadded sequence; config: a `config.json` of the original.

    prefix: keys and values that all tokens see, [layers, 2, length, heads, kv_channels].
    """
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    x = wide["transformer.embedding.word_embeddings.weight"][ids]
    for index in range(config["num_layers"]):
        place = f"transformer.encoder.layers.{index}."
        layer = {name[len(place) :]: array for name, array in wide.items() if name.startswith(place)}
        prefix_key_values = None if prefix is None else prefix[index]
        x = x + attention(layer, config, norm(x, layer["input_layernorm.weight"], config), prefix_key_values)
        x = x + mlp(layer, norm(x, layer["post_attention_layernorm.weight"], config))
    x = norm(x, wide["transformer.encoder.final_layernorm.weight"], config)
    return x @ wide["transformer.output_layer.weight"].T


def norm(x: np.ndarray, weight: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config["layernorm_epsilon"])


def mlp(layer: Weights, x: np.ndarray) -> np.ndarray:
    gate, up = np.split(x @ layer["mlp.dense_h_to_4h.weight"].T, 2, axis=-1)
    return (gate / (1 + np.exp(-gate)) * up) @ layer["mlp.dense_4h_to_h.weight"].T


def attention(
    layer: Weights, config: Mapping[str, Any], x: np.ndarray, prefix_key_values: np.ndarray | None
) -> np.ndarray:
    heads, size = config["num_attention_heads"], config["kv_channels"]
    fused = x @ layer["self_attention.query_key_value.weight"].T
    if config["add_qkv_bias"]:
        fused = fused + layer["self_attention.query_key_value.bias"]
    context = np.zeros((len(x), heads, size))
    for head in range(heads):
        query, key, value = split_head(fused, head, config)
        query, key = apply_rotary(query, config), apply_rotary(key, config)
        length = 0
        if prefix_key_values is not None:
            length = prefix_key_values.shape[1]
            key = np.concatenate([prefix_key_values[0, :, head], key])
            value = np.concatenate([prefix_key_values[1, :, head], value])
        for place in range(len(x)):
            scores = key[: length + place + 1] @ query[place] / np.sqrt(size)
            probabilities = np.exp(scores - scores.max())
            context[place, head] = probabilities / probabilities.sum() @ value[: length + place + 1]
    return context.reshape(len(x), heads * size) @ layer["self_attention.dense.weight"].T


def split_head(fused: np.ndarray, head: int, config: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Query, key and value [tokens, kv_channels] of one head."""
    heads, size = config["num_attention_heads"], config["kv_channels"]
    if not config["multi_query_attention"]:
        start = head * 3 * size
        return tuple(fused[:, start + part * size : start + (part + 1) * size] for part in range(3))
    groups = config["multi_query_group_num"]
    group = head // (heads // groups)
    starts = (head * size, (heads + group) * size, (heads + groups + group) * size)
    return tuple(fused[:, start : start + size] for start in starts)


def apply_rotary(x: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Rotary positions: pairs of channels of the first half of the head."""
    half, ratio = config["kv_channels"] // 2, config.get("rope_ratio", 1)
    # The long models of ChatGLM2 interpolate positions, those of ChatGLM3 have another base.
    is_chatglm3 = config.get("paddle_glm_family") == "chatglm3"
    position_scale, base = (1, 10000.0 * ratio) if is_chatglm3 else (ratio, 10000.0)
    out = x.copy()
    for place in range(len(x)):
        for first in range(0, half, 2):
            angle = place / position_scale * base ** (-first / half)
            a, b = x[place, first], x[place, first + 1]
            out[place, first] = a * np.cos(angle) - b * np.sin(angle)
            out[place, first + 1] = b * np.cos(angle) + a * np.sin(angle)
    return out
