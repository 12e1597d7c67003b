"""Checkpoints made by PaddleNLP's own classes, tiny and random."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
from paddlenlp import transformers

SIZES = dict(num_hidden_layers=2, vocab_size=64, hidden_size=32, max_sequence_length=64)
V2 = dict(ffn_hidden_size=48, kv_channels=4, num_attention_heads=8, multi_query_group_num=4,
          add_qkv_bias=True)  # fmt: skip
# 28 layers and heads of 4, because there it computes what THUDM's code computes.
V1 = dict(num_hidden_layers=28, hidden_size=48, inner_hidden_size=64, num_attention_heads=12,
          bos_token_id=60, eos_token_id=61, pad_token_id=3, mask_token_id=58, gmask_token_id=59)  # fmt: skip
CLASSES = {
    "chatglm2": (transformers.ChatGLMv2ForCausalLM, transformers.ChatGLMv2Config, V2),
    "chatglm": (transformers.ChatGLMForCausalLM, transformers.ChatGLMConfig, V1),
}


def make(family: str, **changes: Any) -> Any:
    """A random model of PaddleNLP's, in evaluation mode."""
    model_class, config_class, sizes = CLASSES[family]
    paddle.seed(0)
    model = model_class(config_class(**{**SIZES, **sizes, **changes}))
    for parameter in model.parameters():
        # Its norms start at one and its biases at zero, which would hide a mixed-up order.
        start = parameter if parameter.ndim == 1 else paddle.zeros(parameter.shape)
        parameter.set_value(start + paddle.randn(parameter.shape) * 0.2)
    model.eval()
    return model


def save_shards(model: Any, folder: Path, degree: int) -> None:
    """`model_state.tpNN.pdparams` of every rank, cut by PaddleNLP's own functions."""
    whole = folder.with_name(folder.name + "_whole")
    model.save_pretrained(str(whole))
    folder.mkdir()
    for rank in range(degree):
        config = type(model.config).from_pretrained(str(whole))
        config.tensor_parallel_degree, config.tensor_parallel_rank = degree, rank
        cut = type(model).convert_tensor_parallel(str(whole / "model_state.pdparams"), config)
        paddle.save(cut, str(folder / f"model_state.tp{rank:02d}.pdparams"))
    config.save_pretrained(str(folder))


def merge_shards(family: str, folder: Path, degree: int) -> dict[str, Any]:
    """The full state dict of a folder of shards, joined by PaddleNLP's own functions."""
    model_class, config_class, _ = CLASSES[family]
    config = config_class.from_pretrained(str(folder))
    config.tensor_parallel_degree = degree
    actions = model_class._get_tensor_parallel_mappings(config, is_split=False)
    prefix = model_class.base_model_prefix + "."
    shards = [paddle.load(str(folder / f"model_state.tp{rank:02d}.pdparams")) for rank in range(degree)]
    joined = {}
    for name in shards[0]:
        action = actions.get(name.removeprefix(prefix))
        pieces = [shard[name].numpy() for shard in shards]
        joined[name] = pieces[0] if action is None else action(pieces)
    return joined


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "pdparams": lambda model, folder: model.save_pretrained(str(folder)),
    "numbered pdparams": lambda model, folder: model.save_pretrained(str(folder), max_shard_size="20KB"),
    "safetensors": lambda model, folder: model.save_pretrained(str(folder), safe_serialization=True),
    "numbered safetensors": lambda model, folder: model.save_pretrained(
        str(folder), safe_serialization=True, max_shard_size="20KB"
    ),
    "two shards": lambda model, folder: save_shards(model, folder, 2),
    "four shards": lambda model, folder: save_shards(model, folder, 4),
}


def silence_paddlenlp() -> None:
    """PaddleNLP reports every file on stderr."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    from paddlenlp.utils.log import logger

    logger.set_level("ERROR")
