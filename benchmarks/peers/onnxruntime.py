"""ONNX Runtime: MatMulNBits and GroupQueryAttention, as its own model builder exports decoders.

Weights are in groups of 128, computed with int8 activations (accuracy level 4). Keys and values are float32,
in buffers that every step writes in place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Engine, Shape

PACKAGES = ("onnxruntime==1.31.1", "onnx==1.23.2", "numpy==2.4.6")
FROM_SOURCE: tuple[str, ...] = ()
BUILD: dict[str, str] = {}
KINDS = ("int4", "int8")
GROUP = 128
MICROSOFT = "com.microsoft"


def write(folder: Path, kind: str, shape: Shape) -> None:
    import onnx

    with open(folder / "model.data", "wb") as data:
        model = Decoder(int(kind.removeprefix("int")), shape, data).model()
    onnx.save(model, folder / "model.onnx")


class Decoder:
    """Builds the graph of one step; weights go to `data` at once."""

    def __init__(self, bits: int, shape: Shape, data: Any) -> None:

        self.bits, self.shape, self.data = bits, shape, data
        self.random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def model(self) -> Any:
        from onnx import TensorProto, helper

        shape = self.shape
        self.constant("ones", np.ones(shape.hidden, np.float32))
        self.constant("bias", np.zeros(shape.qkv, np.float32))
        self.constant("last", np.array([-1], np.int64))
        half = shape.rotary // 2
        angles = np.arange(shape.positions)[:, None] * 10000.0 ** (-np.arange(half) / half)
        self.constant("cos", np.cos(angles).astype(np.float32))
        self.constant("sin", np.sin(angles).astype(np.float32))
        embedding = self.random.standard_normal((shape.vocab, shape.hidden), np.float32)
        self.constant("embedding", embedding.astype(np.float16))
        self.node("Gather", ["embedding", "ids"], ["rows"])
        self.node("Cast", ["rows"], ["x"], to=TensorProto.FLOAT)
        self.node("SimplifiedLayerNormalization", ["x", "ones"], ["norm"], axis=-1, epsilon=shape.rms_eps)
        x, norm = "x", "norm"
        for layer in range(shape.layers):
            x, norm = self.block(x, norm, layer)
        self.node("Gather", [norm, "last"], ["final"], axis=1)
        self.product("final", "logits", shape.vocab, shape.hidden)
        cache: list[str | int | None] = [1, shape.groups, "context", shape.head_dim]
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "new"])
        last_place = helper.make_tensor_value_info("last_place", TensorProto.INT32, [1])
        inputs = [ids, last_place, helper.make_tensor_value_info("length", TensorProto.INT32, [])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, shape.vocab])]
        for name in cache_names(shape):
            inputs.append(helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, cache))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache))
        graph = helper.make_graph(self.nodes, "chatglm2", inputs, outputs, self.initializers)
        versions = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=versions, ir_version=10)

    def block(self, x: str, norm: str, layer: int) -> tuple[str, str]:
        """Adds a layer; takes and returns names of the sum and of what is normalised."""
        shape, name = self.shape, f"layer{layer}"
        self.product(norm, f"{name}.qkv", shape.qkv, shape.hidden, bias="bias")
        past = [f"past_key{layer}", f"past_value{layer}", "last_place", "length", "cos", "sin"]
        self.node(
            "GroupQueryAttention",
            [f"{name}.qkv", "", "", *past],
            [f"{name}.mixed", f"key{layer}", f"value{layer}"],
            MICROSOFT,
            num_heads=shape.heads,
            kv_num_heads=shape.groups,
            do_rotary=1,
            rotary_interleaved=1,
        )
        self.product(f"{name}.mixed", f"{name}.attention", shape.hidden, shape.hidden)
        x, norm = self.add_and_norm(x, f"{name}.attention")
        for part in ("gate", "up"):
            self.product(norm, f"{name}.{part}", shape.ffn, shape.hidden)
        self.node("Sigmoid", [f"{name}.gate"], [f"{name}.sigmoid"])
        self.node("Mul", [f"{name}.gate", f"{name}.sigmoid"], [f"{name}.silu"])
        self.node("Mul", [f"{name}.silu", f"{name}.up"], [f"{name}.gated"])
        self.product(f"{name}.gated", f"{name}.ffn", shape.hidden, shape.ffn)
        return self.add_and_norm(x, f"{name}.ffn")

    def add_and_norm(self, x: str, added: str) -> tuple[str, str]:
        outputs = [f"{added}.norm", "", "", f"{added}.sum"]
        eps = self.shape.rms_eps
        self.node("SkipSimplifiedLayerNormalization", [x, added, "ones"], outputs, MICROSOFT, epsilon=eps)
        return outputs[3], outputs[0]

    def product(self, x: str, out: str, rows: int, columns: int, bias: str | None = None) -> None:

        groups = columns // GROUP
        packed = np.frombuffer(self.random.bytes(rows * columns * self.bits // 8), np.uint8)
        self.constant(f"{out}.weight", packed.reshape(rows, groups, -1))
        scale = (
            self.random.uniform(0.5, 1.5, rows * groups) * 0.055 / 2**self.bits
        )  # a deviation of about 0.02
        self.constant(f"{out}.scale", scale.astype(np.float32))
        inputs = [x, f"{out}.weight", f"{out}.scale", *(["", "", bias] if bias else [])]
        sizes = {"K": columns, "N": rows, "bits": self.bits, "block_size": GROUP}
        self.node("MatMulNBits", inputs, [out], MICROSOFT, accuracy_level=4, **sizes)

    def node(
        self, kind: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))

    def constant(self, name: str, array: Any) -> None:
        """An initializer whose bytes are appended to the data file."""
        from onnx import TensorProto, helper

        self.data.write(bytes(-self.data.tell() % 4096))
        tensor = TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape
        )
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        array.tofile(self.data)
        self.initializers.append(tensor)


def cache_names(shape: Shape) -> list[str]:
    return [f"{part}{layer}" for layer in range(shape.layers) for part in ("key", "value")]


class OnnxRuntime:
    def __init__(self, path: Path, shape: Shape, threads: int, context: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        empty = np.zeros((1, shape.groups, context, shape.head_dim), np.float32)
        self.cache = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(empty.copy()) for name in cache_names(shape)
        }
        self.length = 0

    def prefill(self, ids: list[int]) -> Any:
        self.length = 0
        return self.step(ids)

    def decode(self, token: int) -> Any:
        return self.step([token])

    def step(self, ids: list[int]) -> Any:

        self.length += len(ids)
        binding = self.session.io_binding()
        binding.bind_cpu_input("ids", np.array([ids], np.int64))
        binding.bind_cpu_input("last_place", np.array([self.length - 1], np.int32))
        binding.bind_cpu_input("length", np.array(self.length, np.int32))
        binding.bind_output("logits")
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(name, value)
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()[0, -1]


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return OnnxRuntime(folder / "model.onnx", shape, threads, context)
