"""ChatGLM-6B: the parameter table, its two rows of positions and prompts."""

from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.chat_template import CHATGLM
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import Family, ParameterSpec
from paddle_glm.families.prefix_encoder import prefix_parameters
from paddle_glm.sharding import REPLICATED, Segment, Sharding, column_parallel, row_parallel, vocab_parallel


def query_key_value(config: ModelConfig) -> Sharding:
    """Rows of the fused projection: head by head, each its query, key and value."""
    return column_parallel(Segment(3 * config.hidden_size, config.num_attention_heads))


def ffn_input(config: ModelConfig) -> Sharding:
    return column_parallel(Segment(config.ffn_hidden_size, config.ffn_hidden_size))


def attention_output(config: ModelConfig) -> Sharding:
    return row_parallel(Segment(config.hidden_size, config.num_attention_heads))


def ffn_output(config: ModelConfig) -> Sharding:
    return row_parallel(Segment(config.ffn_hidden_size, config.ffn_hidden_size))


def parameters(config: ModelConfig) -> dict[str, ParameterSpec]:
    """Every parameter by its hub name; weights are [out_features, in_features]. The head is the embedding."""
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


def two_rows(input_ids: IntArray, real: Array, sop: int, blanks: tuple[int, ...]) -> tuple[Array, Array]:
    """Positions int64 [batch, 2, tokens], and which rows hold `<sop>` behind a blank, bool [batch].

    input_ids: [batch, tokens]; real: bool, False on padding; blanks: ids of `[gMASK]` and `[MASK]`, the
    one to prefer first. Row 0 counts real tokens and stays at the blank's place from `<sop>` on; row 1
    is 0 before `<sop>`, then 1, 2, 3, ... (`get_position_ids` of modeling_chatglm.py). Padding has 0 in
    both; without `<sop>` all is context, and without a blank row 0 goes on counting, as in
    tokenization_chatglm.py.
    """
    after_sop = np.cumsum((input_ids == sop) & real, axis=1) > 0  # from <sop> on
    token_index = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    mask_position = np.full(len(input_ids), -1)
    for token in blanks:
        found = (input_ids == token) & real & ~after_sop
        first = np.take_along_axis(token_index, found.argmax(axis=1)[:, None], axis=1)[:, 0]
        mask_position = np.where((mask_position < 0) & found.any(axis=1), first, mask_position)
    known = mask_position >= 0
    position = np.where(after_sop & known[:, None], mask_position[:, None], token_index)
    block = np.cumsum(after_sop, axis=1)
    return np.stack([position, block], axis=1), known & after_sop[:, -1]


def positions(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> Array:
    """Both rows of positions [batch, 2, total], or row 0 alone [batch, total] without `position_encoding_2d`.

    Raises `InputError` for a row without a blank and `<sop>`, which the model cannot place.
    """
    blanks = _mask_token_ids(config)
    rows, complete = two_rows(input_ids, attention_mask > 0, sop_token_id(config), blanks)
    if not complete.all():
        raise InputError(
            f"row {int(complete.argmin())} of the batch lacks [gMASK] <sop> "
            f"({max(blanks)}, {sop_token_id(config)}): prompts end with them (tokenizer.encode adds them)"
        )
    if config.position_encoding_2d:
        return rows
    # One row: a [MASK] of the final release stays in its place, everything else counts on.
    gmask = config.gmask_token_id
    counts_on = np.full(len(rows), True) if gmask is None else (input_ids == gmask).any(axis=1)
    total = np.maximum(np.cumsum(attention_mask > 0, axis=1) - 1, 0)
    return np.where(counts_on[:, None], total, rows[:, 0])


def position_shape(config: ModelConfig) -> tuple[int, ...]:
    return (2,) if config.position_encoding_2d else ()


def position_rule(config: ModelConfig) -> dict[str, Any]:
    """`positions` as data: `blanks` in order of preference, `start` the id of `<sop>`, one or two rows.

    In one row, sequences that hold `counts_on` have the counted positions; null: all of them.
    """
    return {
        "rule": "blank",
        "start": sop_token_id(config),
        "blanks": list(_mask_token_ids(config)),
        "rows": 2 if config.position_encoding_2d else 1,
        "counts_on": config.gmask_token_id,
    }


def sop_token_id(config: ModelConfig) -> int:
    """The id of `<sop>`, which begins the answer."""
    if config.bos_token_id is None:
        raise InputError("bos_token_id, the id of <sop>, is not set: check config.json")
    return config.bos_token_id


def _mask_token_ids(config: ModelConfig) -> tuple[int, int]:
    """Ids of the tokens that stand for what is to be written, the one that counts if both are there first.

    The first releases do not name them in config.json; they stand four and three before `<sop>`.
    """
    if config.gmask_token_id is not None and config.mask_token_id is not None:
        return config.gmask_token_id, config.mask_token_id
    return sop_token_id(config) - 4, sop_token_id(config) - 3


FAMILIES = {
    "chatglm": Family(
        name="chatglm",
        title="ChatGLM-6B",
        float_parameters=parameters,
        positions=positions,
        position_shape=position_shape,
        position_rule=position_rule,
        template=CHATGLM,
        model="paddle_glm.models.chatglm:ChatGLMModel",
        tokenizer="paddle_glm.tokenizers.chatglm:ChatGLMTokenizer",
        keys_to_ignore=(
            r"lm_head\.weight(_scale)?",
            r"transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq",
        ),
        half_precision_rotary=True,
        chat_generation_defaults={"temperature": 0.95, "top_p": 0.7, "max_length": 2048},
    )
}
