"""Small models whose weights are computed here, the same on every machine, and inputs for them.

Weights are exact in bfloat16 and float16, so a model in half precision differs by its computation alone.
Unlike freshly initialised models, these attend unevenly and prefer some tokens clearly: a wrong mask or
layout changes every number.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from paddle_glm.array_types import Array, FloatArray, IntArray
from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.checkpoint import atomic_folder, save_checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.data.datasets import Collator
from paddle_glm.models.family import family_of

# Sizes are multiples of 64, which fused operators require of heads and of quantised weights.
_SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "head_dim": 64,
    "vocab_size": 512,
    "max_sequence_length": 256,
}
_FAMILY_SIZES: dict[str, dict[str, Any]] = {
    "chatglm": {
        "num_key_value_heads": 4,
        "ffn_hidden_size": 512,
        "position_encoding_2d": True,
        **{"mask_token_id": 500, "gmask_token_id": 501, "bos_token_id": 504, "eos_token_id": 505},
        "pad_token_id": 3,
    },
    "chatglm2": {"num_key_value_heads": 2, "ffn_hidden_size": 384},
    "chatglm3": {"num_key_value_heads": 2, "ffn_hidden_size": 384, "rope_ratio": 2.0},
}
FAMILIES = tuple(_FAMILY_SIZES)


def tiny_config(family: str) -> ModelConfig:
    return ModelConfig(family=family, **{**_SIZES, **_FAMILY_SIZES[family]})


def fixed_value(name: str, shape: tuple[int, ...], residual_scale: float = 1.0) -> FloatArray:
    """float32 numbers that depend on the name alone: matrices with rows of length about 1, norms about 1.

    residual_scale: of what is added to residuals, which ChatGLM-6B multiplies by 7.5 and ties to its logits.
    """
    # A legacy generator: NumPy keeps its numbers the same in all versions.
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    values = generator.standard_normal(shape)
    if len(shape) == 1:
        values = 0.1 * values + (0.0 if name.endswith("bias") else 1.0)
    elif "prefix" not in name and name != "transformer.embedding.word_embeddings.weight":
        values *= _gain(name, residual_scale) / np.sqrt(shape[1])
    values[np.abs(values) < 2**-13] = 0  # below, float16 has fewer digits than bfloat16
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def _gain(name: str, residual_scale: float) -> float:
    if name.endswith(("dense.weight", "dense_4h_to_h.weight")):
        return residual_scale
    return 2.0 if name.endswith(("output_layer.weight", "word_embeddings.weight", "value.weight")) else 1.0


def fixed_weights(config: ModelConfig) -> Iterator[tuple[str, Array]]:
    scale = 30.0 if config.family == "chatglm" else 1.0
    for name, spec in family_of(config).float_parameters(config).items():
        yield name, fixed_value(name, spec.shape, scale)


def model_folder(parent: Path, family: str) -> Path:
    """The model's folder in `parent`; written if it is not there."""
    folder = parent / family
    if not folder.is_dir():
        config = tiny_config(family)
        with atomic_folder(folder) as target:
            config.save_pretrained(target)
            save_checkpoint(target, fixed_weights(config))
    return folder


def prompts(config: ModelConfig) -> dict[str, IntArray]:
    """Two prompts of 24 and 19 tokens, padded on the left, as generation has them; int64, by name."""
    samples = [_sample(config, length, length, seed) for seed, length in enumerate((24, 19))]
    return Collator(config.pad_token_id, side="left")(samples)


def training_rows(config: ModelConfig) -> dict[str, IntArray]:
    """A row of two packed samples, and one that is padded on the right; int64 [2, 28], by name."""
    packed = [_sample(config, 8, 16, 2), _sample(config, 4, 12, 3)]
    row = {name: np.concatenate([one[name] for one in packed], axis=-1) for name in packed[0]}
    row["attention_mask"] = np.repeat([1, 2], [16, 12])
    short = _sample(config, 9, 21, 4)
    return Collator(config.pad_token_id)([row, {**short, "attention_mask": np.ones(21, np.int64)}])


def training_samples(config: ModelConfig, count: int, length: int = 24) -> list[dict[str, IntArray]]:
    """Samples of random tokens, a third of them prompt."""
    return [_sample(config, length // 3, length, 10 + seed) for seed in range(count)]


def _sample(config: ModelConfig, prompt: int, length: int, seed: int) -> dict[str, IntArray]:
    """`length` tokens, of which the first `prompt` have no label; ChatGLM-6B's prompt ends as it must."""
    ids = np.random.RandomState(seed).randint(10, 490, (1, length)).astype(np.int64)
    if config.family == "chatglm":
        ids[:, prompt - 2 : prompt] = config.gmask_token_id, config.bos_token_id
    labels = np.where(np.arange(length) < max(prompt, 1), IGNORE_INDEX, ids[0])
    positions = family_of(config).positions(config, ids, np.ones_like(ids))[0]
    return {"input_ids": ids[0], "labels": labels, "position_ids": positions}
