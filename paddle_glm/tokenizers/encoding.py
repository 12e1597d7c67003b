"""`BatchEncoding`, and truncation, padding and conversion to arrays of a tokenizer's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paddle_glm.errors import InputError
from paddle_glm.hardware import resolve_device


class BatchEncoding(dict[str, Any]):
    """Model inputs by name; `encoding.input_ids` is `encoding["input_ids"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> BatchEncoding:
        """The tensors on a device, as `model.device` names it; raises `InputError` where they are none."""
        if any(not hasattr(value, "to") for value in self.values()):
            raise InputError('these inputs are no tensors: give the tokenizer return_tensors="pd"')
        place = resolve_device(device)
        return BatchEncoding({name: tensor.to(place) for name, tensor in self.items()})


def as_tensors(batch: Mapping[str, Any], kind: str) -> BatchEncoding:
    """Lists of equal lengths to numpy arrays ("np") or Paddle tensors ("pd"), int64; masks may be bool."""
    if kind not in ("np", "pd"):
        raise InputError(f"return_tensors={kind!r}: expected None, 'np' (numpy) or 'pd' (Paddle)")
    lengths = {len(ids) for ids in batch["input_ids"]}
    if len(lengths) > 1:
        raise InputError(f"texts of {sorted(lengths)} tokens do not make one array: pass padding=True")
    arrays = {name: np.asarray(rows) for name, rows in batch.items()}
    arrays = {
        name: array if array.dtype == bool else array.astype(np.int64) for name, array in arrays.items()
    }
    if kind == "pd":
        import paddle

        return BatchEncoding({name: paddle.to_tensor(array) for name, array in arrays.items()})
    return BatchEncoding(arrays)


def truncate(
    first: list[int], second: list[int] | None, max_tokens: int
) -> tuple[list[int], list[int] | None]:
    """At most `max_tokens` ids, cut on the right, the longer of a pair first (`longest_first`)."""
    max_tokens = max(max_tokens, 0)
    if second is None:
        return first[:max_tokens], None
    keep, other = len(first), len(second)
    while keep + other > max_tokens:
        if keep > other:
            keep -= 1
        else:
            other -= 1
    return first[:keep], second[:other]


def padded_length(
    lengths: list[int], padding: bool | str, max_length: int | None, multiple: int | None
) -> int | None:
    """The length to pad to, a multiple of `multiple`; None for no padding."""
    if padding is False:
        return None
    if padding == "max_length":
        if max_length is None:
            raise InputError('padding="max_length" needs max_length')
        length = max_length
    elif padding is True or padding == "longest":
        length = max(lengths, default=0)
    else:
        raise InputError(f"padding={padding!r} is unknown: expected True, False, 'longest' or 'max_length'")
    return length if multiple is None else -(-length // multiple) * multiple
