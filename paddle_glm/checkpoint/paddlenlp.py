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

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.lazy_tensor import ConcatenatedRows, LazyTensor, StoredTensor, as_lazy, transposed
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of


@dataclass(frozen=True)
class PaddleNLPLayout:
    """How PaddleNLP stores one architecture.

    tokenizer: its class; the hub's is called ChatGLMTokenizer for all.
    prefix: what its class for generation puts before names; its base class writes them without.
    hub_prefix: what the hub puts before the same names.
    unprefixed_starts: beginnings of names without prefix that are this layout's, where the file is a
    `.pdparams`.
    renamed: names that differ otherwise, PaddleNLP's to the hub's.
    not_transposed: hub names of two-dimensional weights that are not transposed.
    buffers: hub names beside the parameters that its state dict holds.
    """

    tokenizer: str
    prefix: str
    hub_prefix: str
    unprefixed_starts: tuple[str, ...]
    renamed: Mapping[str, str]
    not_transposed: frozenset[str]
    buffers: frozenset[str] = frozenset()

    def hub_name(self, name: str) -> str:
        bare = name.removeprefix(self.prefix)
        return self.renamed.get(bare, self.hub_prefix + bare)

    def paddlenlp_name(self, hub_name: str) -> str:
        return self.prefix + hub_name.removeprefix(self.hub_prefix)

    def is_transposed(self, hub_name: str, dimensions: int) -> bool:
        return dimensions == 2 and hub_name not in self.not_transposed


_V2 = PaddleNLPLayout(
    tokenizer="ChatGLMv2Tokenizer",
    prefix="chatglm_v2.",
    hub_prefix="transformer.",
    unprefixed_starts=("embedding.", "encoder.", "output_layer."),
    renamed={},
    not_transposed=frozenset({"transformer.embedding.word_embeddings.weight"}),
    buffers=frozenset({"transformer.rotary_pos_emb.inv_freq"}),
)
_V1 = PaddleNLPLayout(
    tokenizer="ChatGLMTokenizer",
    prefix="chatglm.",
    hub_prefix="",
    unprefixed_starts=("transformer.",),
    renamed={"lm_head.decoder_weight": "lm_head.weight"},
    not_transposed=frozenset({"transformer.word_embeddings.weight", "lm_head.weight"}),
)
PADDLENLP_LAYOUTS = {"chatglm": _V1, "chatglm2": _V2, "chatglm3": _V2}
_LEGACY_SPLIT_QUERY = re.compile(r"(.+\.self_attention)\.query\.(weight|bias)")


def detect_layout(names: Iterable[str], pdparams: bool) -> PaddleNLPLayout | None:
    """The layout of PaddleNLP's that names belong to; None for the hub's.

    pdparams: they come from such files, which nobody else writes.
    """
    listed = list(names)
    for layout in (_V2, _V1):
        if any(name.startswith(layout.prefix) for name in listed):
            return layout
    if pdparams:
        for layout in (_V2, _V1):
            if any(name.startswith(layout.unprefixed_starts) for name in listed):
                return layout
    return None


def tensors_to_hub(tensors: Mapping[str, Array], layout: PaddleNLPLayout) -> dict[str, StoredTensor]:
    """Views of PaddleNLP's tensors under the hub's names, in the hub's layout."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint16:  # numpy has no bfloat16, so PaddleNLP writes its bits
            tensor = tensor.view(ml_dtypes.bfloat16)
        hub_name = layout.hub_name(name)
        if hub_name in found:
            raise InputError(f"{hub_name} is there twice, once as {name}")
        found[hub_name] = tensor.T if layout.is_transposed(hub_name, tensor.ndim) else tensor
    return _fuse_legacy_tensors(found)


def tensors_to_paddlenlp(
    tensors: Iterable[tuple[str, Any]], config: ModelConfig
) -> Iterator[tuple[str, LazyTensor]]:
    """A model's tensors, in the hub's names and layout, as PaddleNLP's classes load them.

    What its state dict does not hold (a tied head, tables of older releases) is left out.
    """
    layout = PADDLENLP_LAYOUTS[config.family]
    parameters = family_of(config).parameters(config)
    dtype: DType = np.dtype(np.float32)
    missing_buffers = set(layout.buffers)
    for name, tensor in tensors:
        if name not in parameters and name not in layout.buffers:
            continue
        missing_buffers.discard(name)
        lazy = as_lazy(tensor)
        dtype = lazy.dtype
        yield (
            layout.paddlenlp_name(name),
            transposed(lazy) if layout.is_transposed(name, len(lazy.shape)) else lazy,
        )
    for name in sorted(missing_buffers):
        # Loading warns of a missing buffer; its values are computed anew and never used.
        dim = config.head_dim // 2
        table = 1 / 10000 ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
        yield layout.paddlenlp_name(name), as_lazy(table.astype(dtype))


def set_tokenizer_class(folder: Path, family: str, for_paddlenlp: bool) -> None:
    """Name the reader's class in `folder/tokenizer_config.json`: PaddleNLP looks its classes up by it."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    values["tokenizer_class"] = PADDLENLP_LAYOUTS[family].tokenizer if for_paddlenlp else _V1.tokenizer
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def check_paddlenlp_degree(config: ModelConfig, degree: int) -> None:
    """Raise InputError where PaddleNLP cannot load shards of this degree: it pads and shares nothing."""
    for what in ("num_attention_heads", "num_key_value_heads", "ffn_hidden_size", "vocab_size"):
        if getattr(config, what) % degree:
            raise InputError(
                f"PaddleNLP cannot load {degree} shards of this model: {what} is {getattr(config, what)}, "
                f"which {degree} does not divide; choose another --tensor_parallel_degree, or safetensors"
            )


def _fuse_legacy_tensors(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Old checkpoints' query, key and value as one, and SwiGLU's alternating rows as two halves."""
    for name in [name for name in tensors if _LEGACY_SPLIT_QUERY.fullmatch(name)]:
        match = _LEGACY_SPLIT_QUERY.fullmatch(name)
        assert match is not None
        attention, kind = match.groups()
        parts = [f"{attention}.{part}.{kind}" for part in ("query", "key", "value")]
        if any(part not in tensors for part in parts):
            raise InputError(f"{name} is there without its key and value")
        tensors[f"{attention}.query_key_value.{kind}"] = ConcatenatedRows(
            [_as_rows(tensors.pop(part), part) for part in parts]
        )
        mlp = attention.removesuffix("self_attention") + "mlp.dense_h_to_4h.weight"
        if kind == "weight" and mlp in tensors:
            alternating = _as_rows(tensors[mlp], mlp)
            tensors[mlp] = ConcatenatedRows([alternating[0::2], alternating[1::2]])
    return tensors


def _as_rows(tensor: StoredTensor, name: str) -> Array:
    """A tensor of one dimension or more, as an array."""
    if not tensor.shape or isinstance(tensor, ConcatenatedRows):
        raise InputError(f"{name} has shape {tensor.shape}: expected rows")
    return tensor
