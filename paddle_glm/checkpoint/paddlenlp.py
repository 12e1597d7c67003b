"""Convert weights between PaddleNLP's and the hub's names and layout, as a `PaddleNLPFormat` describes.

PaddleNLP stores linear weights as [in_features, out_features]; they are transposed as views, so that a rank
still reads only the bytes of its shard.
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
    """The PaddleNLP format with such tensor names; None for the hub's.

    pdparams: the names come from `.pdparams` files, which only PaddleNLP writes.
    """
    names, formats = list(names), paddlenlp_formats()
    for layout in formats:
        if any(name.startswith(layout.prefix) for name in names):
            return layout
    if pdparams:
        for layout in formats:
            if any(name.startswith(layout.unprefixed_starts) for name in names):
                return layout
    return None


def tensors_to_hub(tensors: Mapping[str, Array], layout: PaddleNLPFormat) -> dict[str, StoredTensor]:
    """Views of PaddleNLP's tensors under the hub's names, in the hub's layout.

    Raises InputError for duplicate tensors, and for a legacy query without its key and value.
    """
    hub_tensors: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint16:  # numpy has no bfloat16: PaddleNLP saves it as uint16
            tensor = tensor.view(ml_dtypes.bfloat16)
        hub_name = layout.hub_name(name)
        if hub_name in hub_tensors:
            raise InputError(f"duplicate tensor {hub_name}, once as {name}")
        hub_tensors[hub_name] = tensor.T if layout.is_transposed(hub_name, tensor.ndim) else tensor
    return _fuse_legacy_tensors(hub_tensors, layout)


def tensors_to_paddlenlp(
    tensors: Iterable[tuple[str, Any]], config: ModelConfig
) -> Iterator[tuple[str, LazyTensor]]:
    """Convert tensors from the hub's names and layout to those that PaddleNLP's classes load.

    Tensors that are not in its state dict (a tied head, tables of older releases) are left out; buffers that
    are missing are added.
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
    """Set `tokenizer_class` in `folder/tokenizer_config.json`, by which PaddleNLP finds its classes."""
    path, layout = folder / "tokenizer_config.json", config_schema(family).paddlenlp
    if layout is None or not path.is_file():
        return
    values = json.loads(path.read_text(encoding="utf-8"))
    values["tokenizer_class"] = layout.tokenizer_class if for_paddlenlp else layout.hub_tokenizer_class
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def check_paddlenlp_degree(config: ModelConfig, degree: int) -> None:
    """Raise InputError if PaddleNLP cannot load shards of this degree: it neither pads nor replicates."""
    for name in ("num_attention_heads", "num_key_value_heads", "ffn_hidden_size", "vocab_size"):
        if getattr(config, name) % degree:
            raise InputError(
                f"PaddleNLP cannot load {degree} shards of this model: {name} is {getattr(config, name)}, "
                f"which {degree} does not divide; choose another --tensor_parallel_degree, or safetensors"
            )


def _fuse_legacy_tensors(
    tensors: dict[str, StoredTensor], layout: PaddleNLPFormat
) -> dict[str, StoredTensor]:
    """Convert tensors of older files: fuse separate layers, and de-interleave alternating rows to halves."""
    for fused, parts in layout.legacy_fused.items():
        for name in [name for name in tensors if f".{parts[0]}." in name]:
            before, kind = name.split(f"{parts[0]}.")
            names = [f"{before}{part}.{kind}" for part in parts]
            if any(part not in tensors for part in names):
                raise InputError(f"{name} has no matching key and value")
            tensors[f"{before}{fused}.{kind}"] = ConcatenatedRows(
                [_as_rows(tensors.pop(part), part) for part in names]
            )
            for alternating in (f"{before}{module}.weight" for module in layout.legacy_alternating):
                if kind == "weight" and alternating in tensors:
                    rows = _as_rows(tensors[alternating], alternating)
                    tensors[alternating] = ConcatenatedRows([rows[0::2], rows[1::2]])
    return tensors


def _as_rows(tensor: StoredTensor, name: str) -> Array:
    """The tensor if it is an array of at least one dimension, else InputError."""
    if not tensor.shape or isinstance(tensor, ConcatenatedRows):
        raise InputError(f"{name} has shape {tensor.shape}: expected rows")
    return tensor
