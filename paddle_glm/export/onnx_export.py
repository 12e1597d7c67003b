"""Conversion of the step graph to ONNX with Paddle2ONNX (https://github.com/PaddlePaddle/Paddle2ONNX)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paddle_glm.backends.exported import require_package
from paddle_glm.backends.generation_meta import TensorMeta
from paddle_glm.backends.onnx_runtime import INSTALL_HINT
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of

# The oldest opset with all operators of our graphs: engines inside FastDeploy 1.x are of 2022.
OPSET = 13
MAX_OPSET = 17
# A protobuf message is limited to 2 GiB; some of it is left for the graph.
MAX_WEIGHT_BYTES = 2**31 - 2**26
# Supported dtypes -> peak memory of the conversion relative to the weights, measured with 80 to 300 MB.
EXPORT_PEAK_FACTORS = {"float32": 4.4, "float16": 6.3}
QUANTIZED_EXPORT_PEAK_FACTOR = 7.0


def check_onnx_limits(config: ModelConfig, dtype: str) -> None:
    """Raise `InputError` for a model that is too large for an ONNX file, or of an unsupported dtype.

    Above the limit paddle2onnx writes an empty file without an error.
    """
    if dtype not in EXPORT_PEAK_FACTORS:
        raise InputError(
            f"dtype {dtype} with the format onnx: engines do not support {dtype}; expected one of "
            f"{', '.join(EXPORT_PEAK_FACTORS)} (--dtype)"
        )
    specs = family_of(config).parameters(config).values()
    size = sum(math.prod(spec.shape) * np.dtype(spec.dtype or dtype).itemsize for spec in specs)
    if size > MAX_WEIGHT_BYTES:
        raise InputError(
            f"the weights are {size / 2**30:.2f} GiB in {dtype}, and an ONNX file holds less than 2 GiB: "
            "quantise the model (paddle-glm quantize), or export with --format paddle"
        )


def convert_to_onnx(graph: Path, weights: Path, outputs: Sequence[TensorMeta], target: Path) -> None:
    """Convert Paddle's graph and weights to `target`; its outputs are named after `outputs`, in order."""
    onnx = require_package("onnx", INSTALL_HINT)
    paddle2onnx = require_package("paddle2onnx", INSTALL_HINT)
    # Its optimiser would install packages with pip at run time; an unknown name disables it.
    message = paddle2onnx.export(str(graph), str(weights), opset_version=OPSET, optimize_tool="none")
    model = onnx.load_from_string(message)
    _name_outputs(model.graph, [one.name for one in outputs])
    _drop_unused_initializers(model.graph)
    if (opset := model.opset_import[0].version) > MAX_OPSET:
        raise RuntimeError(f"paddle2onnx wrote opset {opset}, engines read {MAX_OPSET} at most")
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Rename the graph's outputs to those in `generation_meta.json`."""
    new = dict(zip((one.name for one in graph.output), names, strict=True))
    for node in graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                side[index] = new.get(name, name)
    for one in graph.output:
        one.name = new[one.name]


def _drop_unused_initializers(graph: Any) -> None:
    """Remove unused constants, for each of which engines print a warning."""
    read = {name for node in graph.node for name in node.input}
    kept = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
