"""A small, randomly initialised checkpoint with its tokenizer, laid out as on the hub."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from paddle_glm.checkpoint import atomic_folder, save_checkpoint
from paddle_glm.config import ModelConfig
from paddle_glm.families import family_of, get_family
from paddle_glm.families.initial import initial_value
from paddle_glm.tiny.tokenizer import train_tokenizer

# The embedding gets this many rows more than the tokenizer has ids at least, as the real one has.
_ROUND_TO = 8


def write_checkpoint(
    folder: str | Path,
    texts: Iterable[str],
    family: str = "chatglm2",
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
    """Writes a model folder whose tokenizer was trained on `texts`; returns its configuration.

    vocab_size: SentencePiece pieces; the model's vocabulary has the special tokens beyond them and is
    rounded up. The weights are float32 and depend on the sizes and `seed` alone. Raises InputError for
    sizes that do not fit, too little text, or a folder that holds something else.
    """
    with atomic_folder(folder, overwrite=overwrite) as target, tempfile.TemporaryDirectory() as scratch:
        tokenizer_class = get_family(family).tokenizer_class()
        name = tokenizer_class.vocab_file
        model_file = train_tokenizer(_with_prompts(texts), Path(scratch) / name, vocab_size, layout=name)
        tokenizer = tokenizer_class.from_pretrained(model_file)
        wanted = ModelConfig(
            family=family,
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=max(hidden_size // num_attention_heads, 1),
            ffn_hidden_size=ffn_hidden_size,
            vocab_size=-(-tokenizer.vocab_size // _ROUND_TO) * _ROUND_TO,
            max_sequence_length=max_sequence_length,
            position_encoding_2d=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            mask_token_id=tokenizer.get_command("[MASK]"),
            gmask_token_id=tokenizer.get_command("[gMASK]"),
        )
        # Only what the family's files can say: one may have neither groups nor ids of its own.
        config = ModelConfig.from_dict(wanted.to_hub_dict())
        config.save_pretrained(target)
        tokenizer.save_pretrained(target)
        save_checkpoint(target, initial_weights(config, seed))
    return config


def initial_weights(config: ModelConfig, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of every parameter, as `AutoModel.from_config` makes them too."""
    for name, spec in family_of(config).parameters(config).items():
        yield name, initial_value(name, spec.shape, seed)


def _with_prompts(texts: Iterable[str]) -> list[str]:
    """The texts, and the words that prompts are made of, often enough to get pieces of their own."""
    texts = list(texts)
    return texts + ["[Round 1]", "问：", "答："] * max(len(texts) // 200, 10)
