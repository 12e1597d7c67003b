"""The positions of ChatGLM-6B's tokens."""

from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError


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
