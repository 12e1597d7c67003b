"""OpenVINO: a stateful decoder as optimum-intel exports it, weights compressed as NNCF does by default.

int4: unsigned, in groups of 128 with zero points, embedding and head in int8. int8: one scale and one zero
point per output. Keys and values are states of the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Engine, Shape

PACKAGES = ("openvino==2026.4.1", "numpy==2.4.6")
FROM_SOURCE: tuple[str, ...] = ()
BUILD: dict[str, str] = {}
KINDS = ("int4", "int8")
GROUP = 128


def write(folder: Path, kind: str, shape: Shape) -> None:
    import openvino

    decoder = Decoder(kind, shape)  # holds the weights until they are written
    openvino.save_model(decoder.model(), str(folder / "model.xml"), compress_to_fp16=False)


class Decoder:
    """Builds the graph of one step.

    Inputs: ids [1, new], cos and sin [1, new, 1, rotary / 2], mask [1, 1, new, all], beam_idx [1].
    """

    def __init__(self, kind: str, shape: Shape) -> None:
        from openvino import PartialShape, Type, opset13

        self.op: Any = opset13
        self.kind, self.shape = kind, shape
        self.random = np.random.default_rng(0)
        self.sinks: list[Any] = []
        self.arrays: list[Any] = []  # constants do not keep theirs
        half = shape.rotary // 2
        self.inputs = {
            "input_ids": opset13.parameter(PartialShape([-1, -1]), Type.i64, name="input_ids"),
            "cos": opset13.parameter(PartialShape([1, -1, 1, half]), Type.f32, name="cos"),
            "sin": opset13.parameter(PartialShape([1, -1, 1, half]), Type.f32, name="sin"),
            "mask": opset13.parameter(PartialShape([-1, 1, -1, -1]), Type.f32, name="mask"),
            "beam_idx": opset13.parameter(PartialShape([-1]), Type.i32, name="beam_idx"),
        }
        for name, node in self.inputs.items():
            node.output(0).set_names({name})

    def model(self) -> Any:
        from openvino import Model

        op, shape = self.op, self.shape
        ids = op.convert(self.inputs["input_ids"], "i32")
        x = op.gather(self.weight(shape.vocab, shape.hidden, bits=8), ids, self.ints(0))
        for layer in range(shape.layers):
            x = op.add(x, self.attention(self.norm(x), layer))
            x = op.add(x, self.feed_forward(self.norm(x)))
        last = op.slice(x, self.ints([-1]), self.ints([2**31 - 1]), self.ints([1]), self.ints([1]))
        logits = self.product(self.norm(last), shape.vocab, shape.hidden, bits=8)
        return Model([op.result(logits)], self.sinks, list(self.inputs.values()), "chatglm2")

    def attention(self, x: Any, layer: int) -> Any:
        op, shape = self.op, self.shape
        qkv = self.product(x, shape.qkv, shape.hidden)
        qkv = op.add(qkv, self.floats(self.random.standard_normal((1, 1, shape.qkv)) * 0.02))
        sizes = self.ints([shape.hidden, shape.groups * shape.head_dim, shape.groups * shape.head_dim])
        query, key, value = op.variadic_split(qkv, self.ints(2), sizes).outputs()
        query = self.rotated(self.heads(query, shape.heads))
        key = self.state(self.rotated(self.heads(key, shape.groups)), f"key{layer}")
        value = self.state(self.transposed(self.heads(value, shape.groups)), f"value{layer}")
        mixed = op.scaled_dot_product_attention(
            query, self.repeated(key), self.repeated(value), self.inputs["mask"]
        )
        merged = op.reshape(self.transposed(mixed), self.ints([0, 0, shape.hidden]), True)
        return self.product(merged, shape.hidden, shape.hidden)

    def feed_forward(self, x: Any) -> Any:
        op, shape = self.op, self.shape
        both = self.product(x, 2 * shape.ffn, shape.hidden)
        gate, up = op.variadic_split(both, self.ints(2), self.ints([shape.ffn, shape.ffn])).outputs()
        return self.product(op.multiply(op.swish(gate), up), shape.hidden, shape.ffn)

    def norm(self, x: Any) -> Any:
        op = self.op
        mean = op.reduce_mean(op.power(x, self.floats(2.0)), self.ints([-1]), True)
        inverse = op.divide(self.floats(1.0), op.sqrt(op.add(mean, self.floats(self.shape.rms_eps))))
        return op.multiply(op.multiply(x, inverse), self.floats([[[1.0] * self.shape.hidden]]))

    def heads(self, x: Any, count: int) -> Any:
        return self.op.reshape(x, self.ints([0, 0, count, self.shape.head_dim]), True)

    def transposed(self, x: Any) -> Any:
        return self.op.transpose(x, self.ints([0, 2, 1, 3]))

    def rotated(self, x: Any) -> Any:
        """[1, new, heads, dim] -> [1, heads, new, dim], neighbouring pairs of the first half rotated."""
        op, shape = self.op, self.shape
        turned, passed = op.variadic_split(
            x, self.ints(3), self.ints([shape.rotary, shape.head_dim - shape.rotary])
        ).outputs()
        pairs = op.reshape(turned, self.ints([0, 0, 0, shape.rotary // 2, 2]), True)
        first, second = (op.gather(pairs, self.ints(place), self.ints(4)) for place in (0, 1))
        cos, sin = self.inputs["cos"], self.inputs["sin"]
        new = (
            op.subtract(op.multiply(first, cos), op.multiply(second, sin)),
            op.add(op.multiply(second, cos), op.multiply(first, sin)),
        )
        joined = op.concat([op.unsqueeze(one, self.ints([4])) for one in new], 4)
        flat = op.reshape(joined, self.ints([0, 0, 0, shape.rotary]), True)
        return self.transposed(op.concat([flat, passed], 3))

    def state(self, new: Any, name: str) -> Any:
        """Append [1, groups, new, dim] to what the state holds."""
        from openvino import PartialShape, Type
        from openvino.op.util import Variable, VariableInfo

        op, info = self.op, VariableInfo()
        info.data_shape = PartialShape([-1, self.shape.groups, -1, self.shape.head_dim])
        info.data_type, info.variable_id = Type.f32, name
        variable = Variable(info)
        rows = op.gather(op.shape_of(self.inputs["input_ids"], "i64"), self.ints([0]), self.ints(0))
        sizes = [rows, *(self.ints([size]) for size in (self.shape.groups, 0, self.shape.head_dim))]
        empty = op.broadcast(self.floats(0.0), op.concat(sizes, 0))
        past = op.gather(op.read_value(empty, variable), self.inputs["beam_idx"], self.ints(0))
        whole = op.concat([past, new], 2)
        self.sinks.append(op.assign(whole, variable))
        return whole

    def repeated(self, x: Any) -> Any:
        """Keys or values of a group, for each of its heads."""
        op, shape = self.op, self.shape
        sizes = op.shape_of(x, "i64")
        rows, length = (op.gather(sizes, self.ints([axis]), self.ints(0)) for axis in (0, 2))
        each = [shape.groups], [shape.heads // shape.groups], [shape.head_dim]
        groups, repeats, dim = map(self.ints, each)
        wide = op.broadcast(
            op.unsqueeze(x, self.ints(2)), op.concat([rows, groups, repeats, length, dim], 0), "BIDIRECTIONAL"
        )
        return op.reshape(wide, self.ints([0, shape.heads, -1, shape.head_dim]), True)

    def product(self, x: Any, rows: int, columns: int, bits: int = 0) -> Any:
        return self.op.matmul(x, self.weight(rows, columns, bits), False, True)

    def weight(self, rows: int, columns: int, bits: int = 0) -> Any:
        """Compressed weights of the kind's bits, decompressed to float32 [rows, columns]."""
        from openvino import Shape as Dims
        from openvino import Tensor, Type

        op, bits = self.op, bits or int(self.kind.removeprefix("int"))
        grouped = bits == 4
        groups = [rows, columns // GROUP, GROUP] if grouped else [rows, columns]
        scales = [*groups[:-1], 1]
        stored, middle = (Type.u4, 0x88) if grouped else (Type.u8, 0x80)
        values = np.frombuffer(self.random.bytes(rows * columns * bits // 8), np.uint8)
        zeros = np.full(int(np.prod(scales)) * bits // 8, middle, np.uint8)
        self.arrays += [values, zeros]
        scale = self.random.uniform(0.5, 1.5, scales) * 0.055 / 2**bits  # a deviation of about 0.02
        integers, zero_points = (
            op.convert(op.constant(Tensor(array, Dims(dims), stored)), "f16")
            for array, dims in ((values, groups), (zeros, scales))
        )
        floats = op.multiply(op.subtract(integers, zero_points), op.constant(scale.astype(np.float16)))
        if grouped:
            floats = op.reshape(floats, self.ints([rows, columns]), False)
        return op.convert(floats, "f32")

    def ints(self, values: Any) -> Any:

        return self.op.constant(np.array(values, np.int64))

    def floats(self, values: Any) -> Any:

        return self.op.constant(np.array(values, np.float32))


class OpenVINO:
    def __init__(self, path: Path, shape: Shape, threads: int) -> None:
        import openvino

        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self.request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
        self.shape, self.length = shape, 0

    def prefill(self, ids: list[int]) -> Any:
        self.request.reset_state()
        self.length = 0
        return self.step(ids)

    def decode(self, token: int) -> Any:
        return self.step([token])

    def step(self, ids: list[int]) -> Any:

        old, self.length = self.length, self.length + len(ids)
        places = np.arange(old, self.length)[:, None]
        half = self.shape.rotary // 2
        angles = places * 10000.0 ** (-np.arange(half) / half)
        hidden = np.arange(self.length) > places
        self.request.infer(
            {
                "input_ids": np.array([ids], np.int64),
                "cos": np.cos(angles).astype(np.float32)[None, :, None],
                "sin": np.sin(angles).astype(np.float32)[None, :, None],
                "mask": np.where(hidden, np.float32(-65504), np.float32(0))[None, None],
                "beam_idx": np.zeros(1, np.int32),
            },
            share_inputs=True,
        )
        return self.request.get_output_tensor(0).data[0, -1]


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return OpenVINO(folder / "model.xml", shape, threads)
