"""Products with quantised weights in the form that an engine multiplies with as they are stored.

Targets:
    onnxruntime: `MatMulNBits`, ONNX Runtime's own operator: unsigned integers in blocks of inputs. OpenVINO
        reads it too.
    openvino: a constant of int4 or int8, cast and scaled in front of an ordinary product, which OpenVINO
        fuses into one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from paddle_glm.array_types import Array, DType
from paddle_glm.checkpoint.lazy_tensor import LazyTensor
from paddle_glm.errors import InputError
from paddle_glm.export.onnx_file import Initializer

_DOMAIN = "com.microsoft"
# MatMulNBits takes blocks of a power of two; larger ones than 128 are no faster.
_MIN_BLOCK, _MAX_BLOCK = 16, 128
# Its attribute: what activations are rounded to.
_ACCURACY_LEVELS = {"float32": 1, "int8": 4}
_BYTE, _FLOAT = np.dtype(np.uint8), np.dtype(np.float32)


@dataclass(frozen=True)
class QuantizedProduct:
    """x [..., in] @ weight [out, in].T. name: of the weight; values, scale: as in `QuantizedWeight`."""

    name: str
    values: LazyTensor
    scale: LazyTensor
    bits: int

    @property
    def outputs(self) -> int:
        return self.values.shape[0]

    @property
    def inputs(self) -> int:
        return self.values.shape[1] * 8 // self.bits

    @property
    def group_size(self) -> int:
        """Inputs per scale."""
        return self.inputs // (self.scale.shape[1] if len(self.scale.shape) == 2 else 1)


def replace_products(
    message: Any, products: Mapping[str, QuantizedProduct], target: str, arithmetic: str
) -> dict[str, Initializer]:
    """Put the target's form in place of products with placeholders; the initializers that it reads.

    products: by the placeholder's name in the graph. arithmetic: one of `ONNX_ARITHMETICS`.
    """
    nodes: list[Any] = []
    tensors: dict[str, Initializer] = {}
    turned: dict[str, QuantizedProduct] = {}
    for node in message.graph.node:
        if node.op_type == "Transpose" and node.input[0] in products:
            turned[node.output[0]] = products[node.input[0]]
        elif node.op_type == "MatMul" and node.input[1] in turned:
            product = turned[node.input[1]]
            if target == "onnxruntime":
                nodes.append(_blockwise_product(node, product, arithmetic, tensors))
            else:
                nodes += _scaled_product(message.graph, node, product, tensors)
        else:
            nodes.append(node)
    del message.graph.node[:]
    message.graph.node.extend(nodes)
    if target == "onnxruntime" and turned:
        message.opset_import.add(domain=_DOMAIN, version=1)
    if left := {name for node in nodes for name in node.input} & products.keys():
        raise RuntimeError(f"{sorted(left)[0]} is used by another node than a product")
    return tensors


def _blockwise_product(
    node: Any, product: QuantizedProduct, arithmetic: str, tensors: dict[str, Initializer]
) -> Any:
    block = _block_size(product)
    values, scale = f"{product.name}_blocks", f"{product.name}_block_scale"
    tensors[values], tensors[scale] = _block_values(product, block), _block_scale(product, block)
    return helper.make_node(
        "MatMulNBits",
        [node.input[0], values, scale],
        [node.output[0]],
        name=node.name,
        domain=_DOMAIN,
        K=product.inputs,
        N=product.outputs,
        bits=product.bits,
        block_size=block,
        accuracy_level=_ACCURACY_LEVELS[arithmetic],
    )


def _block_size(product: QuantizedProduct) -> int:
    """Inputs per block: a power of two, within a group of the weight where it has groups."""
    if len(product.scale.shape) == 1:
        size = _MIN_BLOCK
        while size < min(_MAX_BLOCK, product.inputs):
            size *= 2
        return size
    group = product.group_size
    size = min(_MAX_BLOCK, group & -group)
    if size < _MIN_BLOCK:
        raise InputError(
            f"{product.name} has groups of {group} inputs, and ONNX Runtime takes multiples of {_MIN_BLOCK}: "
            "give --target portable, or quantise in groups of 32, 64 or 128"
        )
    return size


def _block_values(product: QuantizedProduct, block: int) -> Initializer:
    """uint8 [out, blocks, bytes]: integers plus half their range, of two in a byte the earlier one low."""
    width, blocks = block * product.bits // 8, -(-product.inputs // block)
    zero = np.uint8(0x88 if product.bits == 4 else 0x80)

    def convert(rows: Array) -> Array:
        padded = np.full((len(rows), blocks * width), zero, np.uint8)
        unsigned = rows.view(np.uint8) ^ zero
        padded[:, : rows.shape[1]] = _swap_nibbles(unsigned) if product.bits == 4 else unsigned
        return padded

    return Initializer(
        _mapped(product.values, _BYTE, blocks * width, convert), (product.outputs, blocks, width)
    )


def _block_scale(product: QuantizedProduct, block: int) -> Initializer:
    """float32 [out * blocks]."""
    blocks = -(-product.inputs // block)

    def chunks() -> list[Array]:
        scale = np.concatenate([chunk.reshape(-1) for chunk in product.scale.chunks()])
        return [np.repeat(scale, product.outputs * blocks // scale.size)]

    return Initializer(LazyTensor(_FLOAT, (product.outputs * blocks,), chunks))


def _scaled_product(
    graph: Any, node: Any, product: QuantizedProduct, tensors: dict[str, Initializer]
) -> list[Any]:
    outputs, inputs, groups = product.outputs, product.inputs, product.inputs // product.group_size
    shape = (outputs, groups, product.group_size) if groups > 1 else (outputs, inputs)
    # Not the weight's own names: an embedding that is the LM head too is looked up in the stored form.
    integers, scale = f"{product.name}_integers", f"{product.name}_integer_scale"
    if product.bits == 4:
        values = _mapped(product.values, _BYTE, inputs // 2, lambda rows: _swap_nibbles(rows.view(np.uint8)))
        tensors[integers] = Initializer(values, shape, TensorProto.INT4)
    else:
        tensors[integers] = Initializer(product.values, shape)
    tensors[scale] = Initializer(product.scale, (*shape[:-1], 1))
    last = f"{product.name}.scaled"
    nodes = [
        helper.make_node("Cast", [integers], [f"{product.name}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{product.name}.float", scale], [last]),
    ]
    if groups > 1:
        sizes = np.array([outputs, inputs], np.int64)
        graph.initializer.append(numpy_helper.from_array(sizes, f"{product.name}.shape"))
        nodes.append(helper.make_node("Reshape", [last, f"{product.name}.shape"], [f"{product.name}.rows"]))
        last = f"{product.name}.rows"
    turned = f"{product.name}.transposed"
    nodes.append(helper.make_node("Transpose", [last], [turned], perm=[1, 0]))
    nodes.append(helper.make_node("MatMul", [node.input[0], turned], [node.output[0]], name=node.name))
    return nodes


def _swap_nibbles(packed: Array) -> Array:
    return (packed << np.uint8(4)) | (packed >> np.uint8(4))


def _mapped(tensor: LazyTensor, dtype: DType, width: int, convert: Callable[[Array], Array]) -> LazyTensor:
    """The rows that `convert` makes of blocks of rows, [out, width]."""
    return LazyTensor(dtype, (tensor.shape[0], width), lambda: map(convert, tensor.chunks()))
