"""Weights between PaddleNLP's names and layout and the hub's, as a family's `PaddleNLPFormat` describes them.

PaddleNLP stores linear weights as [in_features, out_features]; reading transposes them by a view, so that a
rank still reads only the bytes of its slice.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.lazy_tensor import ConcatenatedRows, LazyTensor, StoredTensor, as_lazy, transposed
from paddle_glm.config import ModelConfig, config_schema, paddlenlp_format, paddlenlp_formats
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from paddle_glm.paddlenlp_format import PaddleNLPFormat


def detect_format(names: Iterable[str], pdparams: bool) -> PaddleNLPFormat | None:
    """The PaddleNLP format that the names of tensors belong to; None for the hub's.

    pdparams: they come from `.pdparams` files, which only PaddleNLP writes.
    """
    listed, formats = list(names), paddlenlp_formats()
    for known in formats:
        if any(name.startswith(known.prefix) for name in listed):
            return known
    if pdparams:
        for known in formats:
            if any(name.startswith(known.unprefixed_starts) for name in listed):
                return known
    return None


def tensors_to_hub(tensors: Mapping[str, Array], layout: PaddleNLPFormat) -> dict[str, StoredTensor]:
    """Views of PaddleNLP's tensors under the hub's names, in the hub's layout."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint16:  # numpy has no bfloat16, so PaddleNLP writes its bits
            tensor = tensor.view(ml_dtypes.bfloat16)
        hub_name = layout.hub_name(name)
        if hub_name in found:
            raise InputError(f"{hub_name} is there twice, once as {name}")
        found[hub_name] = tensor.T if layout.is_transposed(hub_name, tensor.ndim) else tensor
    return _fuse_legacy_tensors(found, layout)


def tensors_to_paddlenlp(
    tensors: Iterable[tuple[str, Any]], config: ModelConfig
) -> Iterator[tuple[str, LazyTensor]]:
    """A model's tensors, in the hub's names and layout, as PaddleNLP's classes load them.

    What its state dict does not hold (a tied head, tables of older releases) is left out.
    """
    layout = paddlenlp_format(config.family)
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
        yield layout.paddlenlp_name(name), as_lazy(layout.buffers[name](config.head_dim).astype(dtype))


def set_tokenizer_class(folder: Path, family: str, for_paddlenlp: bool) -> None:
    """Name the reader's class in `folder/tokenizer_config.json`: PaddleNLP looks its classes up by it."""
    path, known = folder / "tokenizer_config.json", config_schema(family).paddlenlp
    if known is None or not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    values["tokenizer_class"] = known.tokenizer_class if for_paddlenlp else known.hub_tokenizer_class
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def check_paddlenlp_degree(config: ModelConfig, degree: int) -> None:
    """Raise InputError where PaddleNLP cannot load shards of this degree: it pads and shares nothing."""
    for what in ("num_attention_heads", "num_key_value_heads", "ffn_hidden_size", "vocab_size"):
        if getattr(config, what) % degree:
            raise InputError(
                f"PaddleNLP cannot load {degree} shards of this model: {what} is {getattr(config, what)}, "
                f"which {degree} does not divide; choose another --tensor_parallel_degree, or safetensors"
            )


def _fuse_legacy_tensors(
    tensors: dict[str, StoredTensor], layout: PaddleNLPFormat
) -> dict[str, StoredTensor]:
    """Tensors of an older file in the layout of newer ones: layers fused, alternating rows as halves."""
    for fused, parts in layout.legacy_fused.items():
        for name in [name for name in tensors if f".{parts[0]}." in name]:
            before, kind = name.split(f"{parts[0]}.")
            names = [f"{before}{part}.{kind}" for part in parts]
            if any(part not in tensors for part in names):
                raise InputError(f"{name} is there without its key and value")
            tensors[f"{before}{fused}.{kind}"] = ConcatenatedRows(
                [_as_rows(tensors.pop(part), part) for part in names]
            )
            for alternating in (f"{before}{module}.weight" for module in layout.legacy_alternating):
                if kind == "weight" and alternating in tensors:
                    rows = _as_rows(tensors[alternating], alternating)
                    tensors[alternating] = ConcatenatedRows([rows[0::2], rows[1::2]])
    return tensors


def _as_rows(tensor: StoredTensor, name: str) -> Array:
    """A tensor of one dimension or more, as an array."""
    if not tensor.shape or isinstance(tensor, ConcatenatedRows):
        raise InputError(f"{name} has shape {tensor.shape}: expected rows")
    return tensor
