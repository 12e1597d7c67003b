"""chatglm.cpp, through chatglm-cpp: its own ggml file, as its convert.py writes it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.peers.contract import Engine, Shape

PACKAGES = ("chatglm-cpp==0.4.2", "numpy==2.4.6")
FROM_SOURCE = ("chatglm-cpp",)
# Its CMake files ask for a minimum version that newer CMakes refuse.
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_POLICY_VERSION_MINIMUM": "3.5"}
KINDS = ("q4_0", "q8_0")

F32 = 0
TYPES = {"q4_0": 2, "q8_0": 8}
BLOCK = 32  # weights of a scale
ALIGNMENT = 16  # of a tensor's data in the file
CHATGLM2, CONFIG_VERSION = 2, 2
TILE = 64  # rows of random weights, which are repeated


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights."""
    yield "transformer.embedding.word_embeddings.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        name = f"transformer.encoder.layers.{layer}"
        yield f"{name}.input_layernorm.weight", (shape.hidden,)
        yield f"{name}.self_attention.query_key_value.weight", (shape.qkv, shape.hidden)
        yield f"{name}.self_attention.query_key_value.bias", (shape.qkv,)
        yield f"{name}.self_attention.dense.weight", (shape.hidden, shape.hidden)
        yield f"{name}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{name}.mlp.dense_h_to_4h.weight", (2 * shape.ffn, shape.hidden)
        yield f"{name}.mlp.dense_4h_to_h.weight", (shape.hidden, shape.ffn)
    yield "transformer.encoder.final_layernorm.weight", (shape.hidden,)
    yield "transformer.output_layer.weight", (shape.vocab, shape.hidden)


def write(folder: Path, kind: str, shape: Shape) -> None:

    tiles: dict[int, Any] = {}
    with open(folder / "model.bin", "wb") as file:
        write_header(file, kind, shape)
        for name, dims in tensors(shape):
            stored = F32 if len(dims) == 1 else TYPES[kind]
            file.write(struct.pack("i", len(name)) + name.encode())
            file.write(struct.pack(f"{len(dims) + 2}i", len(dims), *dims, stored))
            file.write(bytes(-file.tell() % ALIGNMENT))
            if stored == F32:
                np.ones(dims, np.float32).tofile(file)
                continue
            rows, width = dims
            if width not in tiles:
                tiles[width] = quantized_tile(kind, width)
            np.resize(tiles[width], (rows, tiles[width].shape[1])).tofile(file)


def write_header(file: BinaryIO, kind: str, shape: Shape) -> None:
    sizes = (shape.vocab, shape.hidden, shape.heads, shape.groups, shape.layers, shape.ffn)
    prefix, rope_theta, eos, pad = 0, 10000.0, -1, -1
    file.write(b"ggml" + struct.pack("iii", CHATGLM2, CONFIG_VERSION, TYPES[kind]))
    file.write(struct.pack("6i", *sizes))
    file.write(struct.pack("fifiii", shape.rms_eps, prefix, rope_theta, shape.positions, eos, pad))
    tokenizer = sentencepiece_model()
    file.write(struct.pack("i", len(tokenizer)) + tokenizer)


def sentencepiece_model() -> bytes:
    """The least that SentencePiece opens: <unk>, <s>, </s> and a letter, in protobuf's encoding."""
    normal, unknown, control = 1, 2, 3
    pieces = ((b"<unk>", unknown), (b"<s>", control), (b"</s>", control), (b"a", normal))
    message = b""
    for text, kind in pieces:
        piece = (
            b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", 0.0) + b"\x18" + bytes([kind])
        )
        message += b"\x0a" + bytes([len(piece)]) + piece
    return message


def quantized_tile(kind: str, width: int) -> Any:
    """`TILE` rows of random weights, uint8 [TILE, bytes]: blocks of a float16 scale and 32 integers."""
    blocks = np.random.default_rng(0).standard_normal((TILE * width // BLOCK, BLOCK)) * 0.02
    bound = 127 if kind == "q8_0" else 7
    scale = np.abs(blocks).max(axis=1, keepdims=True) / bound
    values = np.rint(blocks / scale).astype(np.int8)
    if kind == "q4_0":
        shifted = (values + 8).astype(np.uint8)
        values = (shifted[:, : BLOCK // 2] | shifted[:, BLOCK // 2 :] << 4).view(np.int8)
    stored = np.concatenate([scale.astype(np.float16).view(np.int8), values], axis=1)
    return stored.view(np.uint8).reshape(TILE, -1)


class ChatGLMCpp:
    """Takes as many threads as the process has cores, up to four, and checks that logits are finite."""

    def __init__(self, path: Path, context: int) -> None:
        import chatglm_cpp._C as library

        self.pipeline = library.Pipeline(str(path), context)
        self.greedy = library.GenerationConfig(do_sample=False)
        self.ids: list[int] = []

    def prefill(self, ids: list[int]) -> None:
        self.ids = list(ids)
        self.step(0)

    def decode(self, token: int) -> None:
        self.ids.append(token)
        self.step(len(self.ids) - 1)

    def step(self, past: int) -> None:
        self.pipeline.model.generate_next_token(self.ids, None, self.greedy, past, len(self.ids))


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return ChatGLMCpp(folder / "model.bin", context)
