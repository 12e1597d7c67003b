"""PaddleNLP's names and layout of weights, and the hub's: the one table between them.

PaddleNLP keeps linear weights [in_features, out_features]; reading turns them by a view, so that a rank's
slice is still only the bytes that it needs. Its older checkpoints of ChatGLMv2 keep query, key and value
apart and SwiGLU's two halves in alternating columns
(paddlenlp/transformers/chatglm_v2/chatglm-legacy-checkpoints-convert.py).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from paddle_glm.checkpoint.tensors import LazyTensor, Stacked, Stored, as_lazy, turned
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import family_of


@dataclass(frozen=True)
class Layout:
    """How PaddleNLP stores one architecture.

    tokenizer: its class; the hub's is called ChatGLMTokenizer for all.
    prefix: what its class for generation puts before names; its base class writes them without.
    hub_prefix: what the hub puts before the same names.
    starts: beginnings of names without prefix that are this layout's, where the file is a `.pdparams`.
    renamed: names that differ otherwise, PaddleNLP's to the hub's.
    kept: hub names of two-dimensional weights that are not turned.
    buffers: hub names beside the parameters that its state dict holds.
    """

    tokenizer: str
    prefix: str
    hub_prefix: str
    starts: tuple[str, ...]
    renamed: Mapping[str, str]
    kept: frozenset[str]
    buffers: frozenset[str] = frozenset()

    def hub_name(self, name: str) -> str:
        bare = name.removeprefix(self.prefix)
        return self.renamed.get(bare, self.hub_prefix + bare)

    def own_name(self, hub_name: str) -> str:
        return self.prefix + hub_name.removeprefix(self.hub_prefix)

    def is_turned(self, hub_name: str, dimensions: int) -> bool:
        return dimensions == 2 and hub_name not in self.kept


_V2 = Layout(
    tokenizer="ChatGLMv2Tokenizer",
    prefix="chatglm_v2.",
    hub_prefix="transformer.",
    starts=("embedding.", "encoder.", "output_layer."),
    renamed={},
    kept=frozenset({"transformer.embedding.word_embeddings.weight"}),
    buffers=frozenset({"transformer.rotary_pos_emb.inv_freq"}),
)
_V1 = Layout(
    tokenizer="ChatGLMTokenizer",
    prefix="chatglm.",
    hub_prefix="",
    starts=("transformer.",),
    renamed={"lm_head.decoder_weight": "lm_head.weight"},
    kept=frozenset({"transformer.word_embeddings.weight", "lm_head.weight"}),
)
LAYOUTS = {"chatglm": _V1, "chatglm2": _V2, "chatglm3": _V2}
_SPLIT = re.compile(r"(.+\.self_attention)\.query\.(weight|bias)")


def layout_of(names: Iterable[str], pdparams: bool) -> Layout | None:
    """The layout of PaddleNLP's that names belong to; None for the hub's.

    pdparams: they come from such files, which nobody else writes.
    """
    listed = list(names)
    for layout in (_V2, _V1):
        if any(name.startswith(layout.prefix) for name in listed):
            return layout
    if pdparams:
        for layout in (_V2, _V1):
            if any(name.startswith(layout.starts) for name in listed):
                return layout
    return None


def to_hub(tensors: Mapping[str, np.ndarray], layout: Layout) -> dict[str, Stored]:
    """Views of PaddleNLP's tensors under the hub's names, in the hub's layout."""
    found: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint16:  # numpy has no bfloat16, so PaddleNLP writes its bits
            tensor = tensor.view(ml_dtypes.bfloat16)
        hub_name = layout.hub_name(name)
        if hub_name in found:
            raise InputError(f"{hub_name} is there twice, once as {name}")
        found[hub_name] = tensor.T if layout.is_turned(hub_name, tensor.ndim) else tensor
    return _joined(found)


def to_paddlenlp(tensors: Iterable[tuple[str, Any]], config: ModelConfig) -> Iterator[tuple[str, LazyTensor]]:
    """A model's tensors, in the hub's names and layout, as PaddleNLP's classes load them.

    What its state dict does not hold (a tied head, tables of older releases) is left out.
    """
    layout = LAYOUTS[config.family]
    parameters = family_of(config).parameters(config)
    dtype: np.dtype = np.dtype(np.float32)
    left = set(layout.buffers)
    for name, tensor in tensors:
        if name not in parameters and name not in layout.buffers:
            continue
        left.discard(name)
        lazy = as_lazy(tensor)
        dtype = lazy.dtype
        yield layout.own_name(name), turned(lazy) if layout.is_turned(name, len(lazy.shape)) else lazy
    for name in sorted(left):
        # Loading warns of a missing buffer; its values are computed anew and never used.
        dim = config.head_dim // 2
        table = 1 / 10000 ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
        yield layout.own_name(name), as_lazy(table.astype(dtype))


def name_tokenizer(folder: Path, family: str, for_paddlenlp: bool) -> None:
    """Name the reader's class in `folder/tokenizer_config.json`: PaddleNLP looks its classes up by it."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    values["tokenizer_class"] = LAYOUTS[family].tokenizer if for_paddlenlp else _V1.tokenizer
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def check_degree(config: ModelConfig, degree: int) -> None:
    """Raise InputError where PaddleNLP cannot load shards of this degree: it pads and shares nothing."""
    for what in ("num_attention_heads", "num_key_value_heads", "ffn_hidden_size", "vocab_size"):
        if getattr(config, what) % degree:
            raise InputError(
                f"PaddleNLP cannot load {degree} shards of this model: {what} is {getattr(config, what)}, "
                f"which {degree} does not divide; choose another --tensor_parallel_degree, or safetensors"
            )


def _joined(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """Old checkpoints' query, key and value as one, and SwiGLU's alternating rows as two halves."""
    for name in [name for name in tensors if _SPLIT.fullmatch(name)]:
        match = _SPLIT.fullmatch(name)
        assert match is not None
        attention, kind = match.groups()
        parts = [f"{attention}.{part}.{kind}" for part in ("query", "key", "value")]
        if any(part not in tensors for part in parts):
            raise InputError(f"{name} is there without its key and value")
        tensors[f"{attention}.query_key_value.{kind}"] = Stacked(
            [_rows(tensors.pop(part), part) for part in parts]
        )
        mlp = attention.removesuffix("self_attention") + "mlp.dense_h_to_4h.weight"
        if kind == "weight" and mlp in tensors:
            alternating = _rows(tensors[mlp], mlp)
            tensors[mlp] = Stacked([alternating[0::2], alternating[1::2]])
    return tensors


def _rows(tensor: Stored, name: str) -> np.ndarray:
    """A tensor of one dimension or more, as an array."""
    if not tensor.shape or isinstance(tensor, Stacked):
        raise InputError(f"{name} has shape {tensor.shape}: expected rows")
    return tensor
