"""Safetensors files: memory-mapped reading, streaming writing.

Format: header length (8 bytes, little-endian), a JSON header {name: {dtype, shape, data_offsets}}, then the
tensors' bytes without gaps (https://github.com/huggingface/safetensors#format).
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.hashed_file import HashedFile
from paddle_glm.checkpoint.lazy_tensor import DTYPES, LazyTensor, raw_bytes, safetensors_dtype_name
from paddle_glm.checkpoint.mapped_file import map_file
from paddle_glm.checkpoint.weight_files import MAX_JSON_BYTES
from paddle_glm.errors import InputError
from paddle_glm.progress import Progress

# PaddleNLP writes the bits of bfloat16 as U16.
_READ = {**DTYPES, "U16": np.dtype(np.uint16)}


def open_safetensors(path: Path) -> dict[str, Array]:
    """Read-only views of every tensor in a file; only the header is read.

    Raises InputError with the file and the tensor if the header is invalid, sizes do not match shapes, or
    offsets overlap, leave gaps or extend beyond the file.
    """
    data = map_file(path)
    if data.size < 8:
        raise InputError(f"{path} is truncated: {data.size} bytes, too short for a safetensors file")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(MAX_JSON_BYTES, data.size - 8):
        raise InputError(f"{path} is truncated or not a safetensors file: its header claims {length} bytes")
    header = _parse_header(path, data[8 : 8 + length].tobytes())
    body = data[8 + length :]
    tensors = {}
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, stop, dtype, shape = _checked_entry(path, name, entry, body.size)
        spans.append((start, stop, name))
        try:
            tensors[name] = np.frombuffer(body[start:stop], dtype).reshape(shape)
        except ValueError as error:
            shown = f"tensor {name!a:.200} has an impossible shape {shape!s:.100}"
            raise InputError(f"{path}: {shown}: {error}") from error
    _check_spans(path, spans, body.size)
    return tensors


def write_safetensors(
    path: Path, tensors: Mapping[str, LazyTensor], progress: Progress | None = None
) -> None:
    """Write and hash a file tensor by tensor; `progress` is called with the bytes of each chunk.

    Tensors with larger elements come first, so that each is aligned to its element size.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in ordered:
        stop = offset + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {
            "dtype": safetensors_dtype_name(tensor.dtype),
            "shape": shape,
            "data_offsets": [offset, stop],
        }
        offset = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with HashedFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in ordered:
            write_chunks(file, name, tensor, progress)


def write_chunks(file: Any, name: str, tensor: LazyTensor, progress: Progress | None) -> None:
    """Write a tensor's chunks to a file object; raises ValueError if dtype or number of bytes is wrong."""
    written = 0
    for chunk in tensor.chunks():
        if chunk.dtype != tensor.dtype:
            raise ValueError(f"{name}: chunk of dtype {chunk.dtype}, declared {tensor.dtype}")
        written += file.write(raw_bytes(chunk))
        if progress is not None:
            progress(chunk.nbytes)
    if written != tensor.nbytes:
        raise ValueError(f"{name}: {written} bytes written, {tensor.nbytes} declared")


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        header = dict(pairs)
        if len(header) != len(pairs):
            raise ValueError("a duplicate name")
        return header

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        message = f"{path} has no valid safetensors header ({error!s:.200}): download it again"
        raise InputError(message) from error
    if not isinstance(header, dict):
        raise InputError(f"{path} has no valid safetensors header: it is a {type(header).__name__}")
    return header


def _checked_entry(path: Path, name: str, entry: Any, available: int) -> tuple[int, int, DType, list[int]]:
    where = f"{path}: tensor {name!a:.200}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise InputError(f"{where} lacks dtype, shape or data_offsets")
    dtype = _READ.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise InputError(f"{where} has dtype {entry['dtype']!r:.60}: expected one of {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise InputError(
                f"{where}: shape {shape!s:.100}, offsets {offsets!s:.100}: expected non-negative numbers"
            )
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(f"{where} has offsets {offsets!s:.100}: expected [start, stop]")
    start, stop = offsets
    if stop > available:
        raise InputError(
            f"{where} ends at byte {stop} of {available}: {path.name} is truncated, download it again"
        )
    if stop - start != prod(shape) * dtype.itemsize:
        needed = prod(shape) * dtype.itemsize
        raise InputError(f"{where} has {stop - start} bytes, but shape {shape!s:.100} needs {needed}")
    return start, stop, dtype, shape


def _check_spans(path: Path, spans: list[tuple[int, int, str]], available: int) -> None:
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            problem = "overlaps another tensor" if start < end else "leaves a gap before it"
            raise InputError(f"{path}: tensor {name!a:.200} at bytes {start} to {stop} {problem}")
        end = stop
    if end != available:
        raise InputError(f"{path}: {available - end} bytes after the last tensor belong to no tensor")
