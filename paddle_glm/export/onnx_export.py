"""Conversion of the step graph to ONNX with Paddle2ONNX (https://github.com/PaddlePaddle/Paddle2ONNX).

It sees a graph without weights: those are added as external data, tensor by tensor.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from paddle_glm.backends.exported import require_package
from paddle_glm.backends.generation_meta import GRAPH_SUFFIXES, ONNX_ARITHMETICS, TARGETS, TensorMeta
from paddle_glm.backends.onnx_runtime import INSTALL_HINT
from paddle_glm.checkpoint.lazy_tensor import LazyTensor, cast_chunks
from paddle_glm.errors import InputError
from paddle_glm.export.step_graph import save_bare_graph
from paddle_glm.models.base import CausalLM, lazy_tensors
from paddle_glm.parallel.layers import ParallelWeight
from paddle_glm.quantization import WEIGHT, scale_name

if TYPE_CHECKING:
    from paddle_glm.export.onnx_products import QuantizedProduct

# The oldest with all operators of our graphs: engines inside FastDeploy 1.x are of 2022. 21 is the first
# with int4.
OPSETS = {"portable": 13, "onnxruntime": 13, "openvino": 21}
DTYPES = ("float32", "float16")


def check_onnx_dtype(dtype: str) -> None:
    """Raise `InputError` for a dtype of weights that engines do not support."""
    if dtype not in DTYPES:
        raise InputError(
            f"dtype {dtype} with the format onnx: engines do not support {dtype}; expected one of "
            f"{', '.join(DTYPES)} (--dtype)"
        )


def check_target(target: str, arithmetic: str, bits: int | None) -> None:
    """Raise `InputError` for quantised products that the target's engine has no kernel for."""
    if target not in TARGETS or arithmetic not in ONNX_ARITHMETICS:
        raise InputError(
            f"target {target!r}, arithmetic {arithmetic!r}: expected one of {', '.join(TARGETS)} and one of "
            f"{', '.join(ONNX_ARITHMETICS)}"
        )
    if target == "onnxruntime" and bits == 8 and arithmetic == "float32":
        raise InputError(
            "--arithmetic float32 with int8 weights: ONNX Runtime multiplies those in int8 only; give "
            "--target portable, or int4 weights"
        )


def save_onnx(
    model: CausalLM,
    weights: Mapping[str, LazyTensor],
    inputs: tuple[TensorMeta, ...],
    outputs: tuple[TensorMeta, ...],
    path: Path,
    target: str,
    arithmetic: str,
) -> None:
    """Write `path`.onnx and `path`.onnx.data.

    model: is traced; its parameters need no memory. weights: their values, by hub name. target, arithmetic:
    items of `TARGETS` and `ONNX_ARITHMETICS`.
    """
    from paddle_glm.export.onnx_file import Initializer, write_onnx
    from paddle_glm.export.onnx_products import replace_products

    with ExitStack() as stack:
        if target != "portable":
            for layer in model.sublayers():
                if isinstance(layer, ParallelWeight):
                    stack.enter_context(layer.product_placeholders())
        message = _convert(model, inputs, OPSETS[target])
        names = {one.name: name for name, one in (*model.named_parameters(), *model.named_buffers())}
    graph = message.graph
    _name_outputs(graph, [one.name for one in outputs])
    _make_initializers(graph)
    _drop_identities(graph)
    _rename(graph, names)
    products = _products(names.values(), weights, model.config.quantization_bit)
    tensors = replace_products(message, products, target, arithmetic)
    values = {**dict(lazy_tensors(model.named_buffers())), **weights}
    read = {name for node in graph.node for name in node.input} - tensors.keys()
    floats = {name: values[name] for name in names.values() if name in read}
    _widen_vectors(graph, floats)
    tensors.update({name: Initializer(one) for name, one in floats.items()})
    _drop_unused_initializers(graph)
    files = (Path(f"{path}{suffix}") for suffix in GRAPH_SUFFIXES["onnx"])
    write_onnx(message, tensors, *files)


def _products(
    names: Iterable[str], weights: Mapping[str, LazyTensor], bits: int | None
) -> "dict[str, QuantizedProduct]":
    """The quantised weight of each placeholder among the names of parameters."""
    from paddle_glm.export.onnx_products import QuantizedProduct

    found = {}
    for name in names:
        layer, _, attribute = name.rpartition(".")
        if attribute == "product_placeholder":
            weight = f"{layer}.{WEIGHT}"
            assert bits is not None
            found[name] = QuantizedProduct(weight, weights[weight], weights[scale_name(weight)], bits)
    return found


def _convert(model: CausalLM, inputs: tuple[TensorMeta, ...], opset: int) -> Any:
    """The step graph as an ONNX message, in which weights are names without values."""
    onnx = require_package("onnx", INSTALL_HINT)
    paddle2onnx = require_package("paddle2onnx", INSTALL_HINT)
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as printed:
        graph = Path(folder) / "graph.json"
        save_bare_graph(model, inputs, graph)
        # Its optimiser would install packages with pip at run time; an unknown name disables it.
        options = {"enable_onnx_checker": False, "optimize_tool": "none"}
        try:
            content = paddle2onnx.export(str(graph), "", opset_version=opset, **options)
        except UnboundLocalError:  # after an error, which it prints
            content = b""
    if not content:
        raise RuntimeError(f"paddle2onnx gave no graph: {printed.getvalue()}")
    message = onnx.load_from_string(content)
    if (written := message.opset_import[0].version) != opset:
        raise RuntimeError(f"paddle2onnx wrote opset {written} instead of {opset}")
    return message


def _name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Rename the graph's outputs to those in `generation_meta.json`."""
    new = dict(zip((one.name for one in graph.output), names, strict=True))
    _rename(graph, new)
    for one in graph.output:
        one.name = new[one.name]


def _rename(graph: Any, new: Mapping[str, str]) -> None:
    for node in graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                side[index] = new.get(name, name)


def _make_initializers(graph: Any) -> None:
    """Constants as initializers, so that large ones can be apart from the graph."""
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            graph.initializer.add().CopyFrom(node.attribute[0].t)
            graph.initializer[-1].name = node.output[0]
        else:
            kept.append(node)
    _set_nodes(graph, kept)


def _drop_identities(graph: Any) -> None:
    """Nodes that copy, of which Paddle2ONNX writes one for each operator."""
    outputs = {one.name for one in graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    _set_nodes(graph, kept)
    _rename(graph, same)


def _widen_vectors(graph: Any, tensors: dict[str, LazyTensor]) -> None:
    """Store norms and biases of half precision as the float32 that every step would cast them to."""
    same: dict[str, str] = {}
    kept = []
    for node in graph.node:
        name = node.input[0] if node.op_type == "Cast" else ""
        if name in tensors and len(tensors[name].shape) == 1:
            same[node.output[0]] = name
            tensors[name] = _as_float32(tensors[name], name)
        else:
            kept.append(node)
    _set_nodes(graph, kept)
    _rename(graph, same)


def _drop_unused_initializers(graph: Any) -> None:
    """Remove unused constants, for each of which engines print a warning."""
    read = {name for node in graph.node for name in node.input}
    kept = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _set_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _as_float32(tensor: LazyTensor, name: str) -> LazyTensor:
    return LazyTensor(
        np.dtype(np.float32), tensor.shape, lambda: cast_chunks(tensor.chunks(), np.dtype(np.float32), name)
    )
