"""ONNX files whose weights are apart: `NAME.onnx`, and `NAME.onnx.data` written tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import set_external_data

from paddle_glm.checkpoint.hashed_file import HashedFile
from paddle_glm.checkpoint.lazy_tensor import LazyTensor
from paddle_glm.checkpoint.safetensors_file import write_chunks
from paddle_glm.progress import progress_bar

# Tensors begin at multiples of it, so that engines can map them.
ALIGNMENT = 4096
# Smaller constants stay in the graph, where engines infer shapes from them.
_MIN_EXTERNAL_BYTES = 1024


@dataclass(frozen=True)
class Initializer:
    """A tensor of a graph. shape, data_type: ONNX's; None: those of `tensor`, which holds its bytes."""

    tensor: LazyTensor
    shape: tuple[int, ...] | None = None
    data_type: int | None = None


def write_onnx(model: Any, tensors: Mapping[str, Initializer], graph: Path, weights: Path) -> None:
    """Write `model`, and beside it its weights as one file: its larger initializers, then `tensors`.

    tensors: initializers by name, each written chunk by chunk and never held whole; the model gets entries
    that point to them. Raises `onnx.checker.ValidationError` for an invalid graph.
    """
    initializers = model.graph.initializer
    held = [one for one in initializers if len(one.raw_data) >= _MIN_EXTERNAL_BYTES]
    total = sum(len(one.raw_data) for one in held) + sum(one.tensor.nbytes for one in tensors.values())
    with HashedFile(weights) as file, progress_bar(f"writing {weights}", total) as progress:
        for one in held:
            data = one.raw_data
            _point_to(one, weights.name, _align(file), len(data))
            progress(file.write(data))
        for name, new in tensors.items():
            data_type = new.data_type or onnx.helper.np_dtype_to_tensor_dtype(new.tensor.dtype)
            shape = new.tensor.shape if new.shape is None else new.shape
            entry = initializers.add(name=name, dims=shape, data_type=data_type)
            _point_to(entry, weights.name, _align(file), new.tensor.nbytes)
            write_chunks(file, name, new.tensor, progress)
    onnx.save(model, str(graph))
    onnx.checker.check_model(str(graph))


def _align(file: HashedFile) -> int:
    """Fill the file up to a multiple of `ALIGNMENT`; its size."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    return file.tell()


def _point_to(tensor: Any, file: str, offset: int, length: int) -> None:
    tensor.raw_data = b"0"  # the helper refuses a tensor without data
    set_external_data(tensor, file, offset, length)
    tensor.ClearField("raw_data")
