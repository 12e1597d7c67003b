"""A randomly initialised checkpoint with a tokenizer, in the hub's layout: small, or of a real size."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint import LazyTensor, atomic_folder, save_checkpoint
from paddle_glm.checkpoint.lazy_tensor import DTYPES, SAFETENSORS_FLOAT_NAMES, cast_chunks, copy_chunks
from paddle_glm.checkpoint.quantize_on_load import QuantizingCheckpoint
from paddle_glm.checkpoint.reshard import check_disk_space
from paddle_glm.config import ModelConfig, released_configs
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of, get_family
from paddle_glm.models.initialization import initial_rows, initial_value
from paddle_glm.progress import progress_bar
from paddle_glm.sharding import ParameterSpec
from paddle_glm.tiny.tokenizer import train_tokenizer
from paddle_glm.tokenizers import Tokenizer

# Vocabulary sizes are rounded up to a multiple of it.
_VOCAB_DIVISIBLE_BY = 8


def write_checkpoint(
    folder: str | Path,
    texts: Iterable[str],
    family: str = ModelConfig.family,
    vocab_size: int = 1200,
    num_layers: int = 2,
    hidden_size: int = 128,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
    ffn_hidden_size: int = 344,
    max_sequence_length: int = 2048,
    seed: int = 0,
    overwrite: bool = False,
) -> ModelConfig:
    """Write a model folder with a tokenizer trained on `texts`; return its configuration.

    vocab_size: number of SentencePiece pieces; the model's vocabulary adds the special tokens and is rounded
    up. The float32 weights depend only on the sizes and `seed`. Raises InputError for invalid sizes, too
    little text, or an existing folder with other content.
    """
    with atomic_folder(folder, overwrite=overwrite) as target:
        tokenizer = _write_tokenizer(target, texts, family, vocab_size)
        wanted = ModelConfig(
            family=family,
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=max(hidden_size // num_attention_heads, 1),
            ffn_hidden_size=ffn_hidden_size,
            vocab_size=-(-tokenizer.vocab_size // _VOCAB_DIVISIBLE_BY) * _VOCAB_DIVISIBLE_BY,
            max_sequence_length=max_sequence_length,
            position_encoding_2d=True,
        )
        # Keep only what the family's config.json can express.
        config = ModelConfig.from_dict(_with_special_token_ids(wanted, tokenizer).to_hub_dict())
        config.save_pretrained(target)
        save_checkpoint(target, initial_weights(config, seed))
    return config


def write_checkpoint_like(
    folder: str | Path,
    texts: Iterable[str],
    name: str,
    vocab_size: int = 1200,
    num_layers: int | None = None,
    dtype: str = "float16",
    quantization_bit: int | None = None,
    quantization_embeddings: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> ModelConfig:
    """Write a folder with the sizes of a released model, one of `released_configs()`; return its
    configuration.

    Random weights are streamed to disk, a few MiB at a time. The tokenizer has `vocab_size` pieces trained on
    `texts`; its ids are the first of the model's. num_layers: overrides the model's number of layers.
    quantization_bit: 4 or 8 writes quantised weights, as `paddle-glm quantize` would;
    quantization_embeddings: also the embedding and the LM head.
    Raises InputError for an unknown name or dtype, and for insufficient disk space.
    """
    released = released_configs()
    if name not in released:
        raise InputError(f"{name!r} is unknown: expected one of {', '.join(released)}")
    if dtype not in SAFETENSORS_FLOAT_NAMES:
        raise InputError(f"dtype {dtype!r} is unknown: expected one of {', '.join(SAFETENSORS_FLOAT_NAMES)}")
    config = ModelConfig.from_dict(released[name])
    config = replace(config, dtype=dtype, num_layers=num_layers or config.num_layers)
    check_disk_space(
        Path(folder), _weight_source(folder, config, seed, quantization_bit, quantization_embeddings)[1]
    )
    with atomic_folder(folder, overwrite=overwrite) as target:
        config = _with_special_token_ids(config, _write_tokenizer(target, texts, config.family, vocab_size))
        source, total = _weight_source(folder, config, seed, quantization_bit, quantization_embeddings)
        source.config.save_pretrained(target)
        cast = DTYPES[SAFETENSORS_FLOAT_NAMES[dtype]]
        tensors = (
            (name, source.read_lazy(name, dtype=cast if spec.dtype is None else None))
            for name, spec in source.parameter_specs.items()
        )
        with progress_bar(f"writing {folder}", total) as progress:
            save_checkpoint(target, tensors, progress=progress)
    return source.config


def initial_weights(config: ModelConfig, seed: int = 0) -> Iterator[tuple[str, Array]]:
    """(name, float32 array) of every parameter, equal to those of `AutoModel.from_config`."""
    for name, spec in family_of(config).parameters(config).items():
        yield name, initial_value(name, spec.shape, seed)


@dataclass(frozen=True)
class RandomCheckpoint:
    """An untrained float model with the interface of `Checkpoint`; values are generated when read."""

    folder: Path
    config: ModelConfig
    seed: int

    @property
    def parameter_specs(self) -> dict[str, ParameterSpec]:
        return family_of(self.config).float_parameters(self.config)

    def read_into(self, out: Array, name: str, rank: int = 0, degree: int = 1) -> None:
        """Fill an array of the parameter's full shape."""
        copy_chunks(self.read_lazy(name, rank, degree, out.dtype).chunks(), out)

    def read_lazy(self, name: str, rank: int = 0, degree: int = 1, dtype: DType | None = None) -> LazyTensor:
        """A full parameter, generated a few rows at a time and cast to `dtype`."""
        assert degree == 1, "a random model is not sharded"
        shape, target = self.parameter_specs[name].shape, dtype or np.dtype(np.float32)
        rows = partial(initial_rows, name, shape, self.seed)
        if target == np.float32:
            return LazyTensor(target, shape, rows)
        return LazyTensor(target, shape, lambda: cast_chunks(rows(), target, name))


def _weight_source(
    folder: str | Path, config: ModelConfig, seed: int, bits: int | None, embeddings: bool
) -> "tuple[RandomCheckpoint | QuantizingCheckpoint, int]":
    """The weights to write, and their size in bytes."""
    floats = RandomCheckpoint(Path(folder), config, seed)
    source = floats if bits is None else QuantizingCheckpoint(floats, bits, embeddings=embeddings)
    sizes = (
        prod(spec.shape) * DTYPES[SAFETENSORS_FLOAT_NAMES[config.dtype]].itemsize
        if spec.dtype is None
        else prod(spec.shape) * np.dtype(spec.dtype).itemsize
        for spec in source.parameter_specs.values()
    )
    return source, sum(sizes)


def _write_tokenizer(folder: Path, texts: Iterable[str], family: str, vocab_size: int) -> Tokenizer:
    tokenizer_class = get_family(family).tokenizer_class()
    name = tokenizer_class.vocab_file
    with tempfile.TemporaryDirectory() as scratch:
        model_file = train_tokenizer(
            _with_prompt_texts(texts), Path(scratch) / name, vocab_size, tokenizer_class.sentencepiece
        )
        tokenizer: Tokenizer = tokenizer_class.from_pretrained(model_file)
        tokenizer.save_pretrained(folder)
    return tokenizer


def _with_special_token_ids(config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig:
    """The configuration with the tokenizer's special token ids."""
    return replace(
        config,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.special_tokens.get("[MASK]"),
        gmask_token_id=tokenizer.special_tokens.get("[gMASK]"),
    )


def _with_prompt_texts(texts: Iterable[str]) -> list[str]:
    """The texts plus the fixed texts of prompts, repeated so that they become pieces."""
    texts = list(texts)
    return texts + ["[Round 1]", "问：", "答："] * max(len(texts) // 200, 10)
