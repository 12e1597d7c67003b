"""Positions of ChatGLM-6B: one in the prompt and one in the answer for every token.

A prompt ends with `[gMASK] <sop>`: the answer is written behind `<sop>` in place of `[gMASK]` (or `[MASK]`,
for a gap inside the prompt). Where a prompt has both, the final release takes `[gMASK]` and the first ones
`[MASK]` (`get_position_ids` of modeling_chatglm.py); `config.json` of the former names them.
"""

from typing import Any

import numpy as np

from paddle_glm.array_types import Array, IntArray
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError


def positions(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> Array:
    """Both rows of positions, int64 [batch, 2, total]; without `position_encoding_2d` row 0, [batch, total].

    input_ids, attention_mask: [batch, total]; the mask is 0 for padding, which has position 0.
    """
    rows, _ = two_rows(input_ids, attention_mask > 0, sop_token_id(config), mask_token_ids(config))
    if config.position_encoding_2d:
        return rows
    # With one row, only a [MASK] of the final release holds the position; otherwise it counts on.
    gmask = config.gmask_token_id
    counts_on = np.full(len(rows), True) if gmask is None else (input_ids == gmask).any(axis=1)
    counted = np.maximum(np.cumsum(attention_mask > 0, axis=1) - 1, 0)
    return np.where(counts_on[:, None], counted, rows[:, 0])


def check_prompt(config: ModelConfig, input_ids: IntArray, attention_mask: IntArray) -> None:
    """Raise `InputError` for a row without `[gMASK] <sop>`: the model has no place for its answer."""
    mask_tokens, sop = mask_token_ids(config), sop_token_id(config)
    _, complete = two_rows(input_ids, attention_mask > 0, sop, mask_tokens)
    if not complete.all():
        raise InputError(
            f"row {int(complete.argmin())} of the batch lacks [gMASK] <sop> ({max(mask_tokens)}, {sop}): "
            "prompts end with them (tokenizer.encode adds them)"
        )


def two_rows(
    input_ids: IntArray, is_real: Array, sop: int, mask_tokens: tuple[int, ...]
) -> tuple[Array, Array]:
    """Positions, int64 [batch, 2, total], and whether `<sop>` follows a mask token, bool [batch].

    input_ids: [batch, total]. is_real: bool [batch, total], False for padding. mask_tokens: ids of the two
    mask tokens, the preferred one first.
    Row 0 counts real tokens and stays at the mask token's position from `<sop>` on. Row 1 is 0 before
    `<sop>`, then 1, 2, 3, ... Padding has 0 in both. Without `<sop>` all tokens are prompt; without a mask
    token row 0 counts on (tokenization_chatglm.py).
    """
    after_sop = np.cumsum((input_ids == sop) & is_real, axis=1) > 0  # from <sop> on
    counted = np.maximum(np.cumsum(is_real, axis=1) - 1, 0)
    mask_position = np.full(len(input_ids), -1)
    for token in mask_tokens:
        found = (input_ids == token) & is_real & ~after_sop
        first = np.take_along_axis(counted, found.argmax(axis=1)[:, None], axis=1)[:, 0]
        mask_position = np.where((mask_position < 0) & found.any(axis=1), first, mask_position)
    has_mask = mask_position >= 0
    prompt_position = np.where(after_sop & has_mask[:, None], mask_position[:, None], counted)
    answer_position = np.cumsum(after_sop, axis=1)
    return np.stack([prompt_position, answer_position], axis=1), has_mask & after_sop[:, -1]


def position_shape(config: ModelConfig) -> tuple[int, ...]:
    return (2,) if config.position_encoding_2d else ()


def rotary_dim(config: ModelConfig) -> int:
    """Each of two positions rotates half of a head; a single one rotates all of it."""
    return config.head_dim // (2 if config.position_encoding_2d else 1)


def position_rule(config: ModelConfig) -> dict[str, Any]:
    """`positions` as data: `start` is the id of `<sop>`, `blanks` the mask tokens, the preferred one first.

    rows: 1 or 2. counts_on: with one row, sequences that hold this id count on; null: all of them.
    """
    return {
        "rule": "blank",
        "start": sop_token_id(config),
        "blanks": list(mask_token_ids(config)),
        "rows": 2 if config.position_encoding_2d else 1,
        "counts_on": config.gmask_token_id,
    }


def sop_token_id(config: ModelConfig) -> int:
    """The id of `<sop>`, which begins the answer; raises `InputError` where the configuration has none."""
    if config.bos_token_id is None:
        raise InputError("bos_token_id, the id of <sop>, is not set: check config.json")
    return config.bos_token_id


def mask_token_ids(config: ModelConfig) -> tuple[int, int]:
    """Ids of the two mask tokens, the preferred one first.

    Where `config.json` does not name them, `[MASK]` stands four ids before `<sop>` and `[gMASK]` three.
    """
    if config.gmask_token_id is not None and config.mask_token_id is not None:
        return config.gmask_token_id, config.mask_token_id
    return sop_token_id(config) - 4, sop_token_id(config) - 3
