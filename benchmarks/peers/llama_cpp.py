"""llama.cpp, through llama-cpp-python: a GGUF file of the architecture `chatglm`."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contract import Engine, Shape

PACKAGES = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy==2.4.6")
FROM_SOURCE = ("llama-cpp-python",)
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
KINDS = ("q4_0", "q4_k_m", "q8_0")
TILE = 64  # rows of random weights, which are repeated


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights."""
    yield "token_embd.weight", (shape.vocab, shape.hidden)
    for layer in range(shape.layers):
        name = f"blk.{layer}"
        yield f"{name}.attn_norm.weight", (shape.hidden,)
        yield f"{name}.attn_qkv.weight", (shape.qkv, shape.hidden)
        yield f"{name}.attn_qkv.bias", (shape.qkv,)
        yield f"{name}.attn_output.weight", (shape.hidden, shape.hidden)
        yield f"{name}.ffn_norm.weight", (shape.hidden,)
        yield f"{name}.ffn_up.weight", (2 * shape.ffn, shape.hidden)
        yield f"{name}.ffn_down.weight", (shape.hidden, shape.ffn)
    yield "output_norm.weight", (shape.hidden,)
    yield "output.weight", (shape.vocab, shape.hidden)


def write(folder: Path, kind: str, shape: Shape, with_words: bool = False) -> None:
    types = quantized_types(kind, shape)
    write_gguf(folder / "model.gguf", shape, types.__getitem__, with_words)


def write_gguf(path: Path, shape: Shape, type_of: Callable[[str], Any], with_words: bool = False) -> None:
    """type_of: gives the `GGMLQuantizationType` of a tensor's name. with_words: a text for each token."""
    import gguf

    writer = gguf.GGUFWriter(path, "chatglm")
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.groups)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_rope_dimension_count(shape.rotary)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape.vocab)
    if with_words:
        add_words(writer, shape.vocab)
    else:
        writer.add_tokenizer_model("no_vocab")
    for name, dims in tensors(shape):
        stored = type_of(name)
        bytes_of_row = gguf.quant_shape_to_byte_shape(dims, stored)
        writer.add_tensor_info(name, bytes_of_row, np.dtype(np.uint8), int(np.prod(bytes_of_row)), stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    tiles: dict[tuple[Any, int], Any] = {}
    for name, dims in tensors(shape):
        if len(dims) == 1:
            writer.write_tensor_data(np.ones(dims, np.float32))
            continue
        key = type_of(name), dims[1]
        if key not in tiles:
            tiles[key] = quantized_tile(*key)
        writer.write_tensor_data(np.resize(tiles[key], (dims[0], tiles[key].shape[1])))
    writer.close()


def add_words(writer: Any, vocab: int) -> None:
    """A SentencePiece vocabulary: unknown, begin, end, the 256 bytes, and made-up words."""
    from gguf import TokenType

    special = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("</s>", TokenType.CONTROL)]
    special += [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
    words = [(f"\u2581word{number}", TokenType.NORMAL) for number in range(vocab - len(special))]
    texts, types = zip(*special, *words, strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([-float(number) for number in range(vocab)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def quantized_tile(stored: Any, width: int) -> Any:
    """`TILE` rows of random weights, quantised by llama.cpp: uint8 [TILE, bytes of a row]."""
    import gguf
    import llama_cpp

    rows = (np.random.default_rng(0).standard_normal((TILE, width)) * 0.02).astype(np.float32)
    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    out = np.empty(gguf.quant_shape_to_byte_shape(rows.shape, stored), np.uint8)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (rows, out))
    numbers = map(ctypes.c_int64, (0, TILE, width))  # first row, rows, columns
    written = library.ggml_quantize_chunk(ctypes.c_int(stored), *pointers, *numbers, None)
    assert written == out.nbytes, f"{written} bytes of {out.nbytes}"
    return out


def quantized_types(kind: str, shape: Shape) -> dict[str, Any]:
    """Tensor name -> the format that llama.cpp's own quantisation gives it, found with a narrow model."""
    import gguf
    import llama_cpp

    def half(name: str) -> Any:
        kinds = gguf.GGMLQuantizationType
        return kinds.F32 if "norm" in name or name.endswith("bias") else kinds.F16

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "f16.gguf", Path(scratch) / "quantised.gguf"
        write_gguf(source, shape.small(), half)
        failed = llama_cpp.llama_model_quantize(
            str(source).encode(), str(target).encode(), ctypes.byref(params)
        )
        assert not failed, "llama_model_quantize failed"
        return {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(target).tensors}


class LlamaCpp:
    def __init__(self, path: Path, threads: int, context: int) -> None:
        import llama_cpp

        self.model = llama_cpp.Llama(
            str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )

        self.logits = functools.partial(llama_cpp.llama_get_logits_ith, self.model.ctx, -1)

    def prefill(self, ids: list[int]) -> Any:
        self.model.reset()
        return self.step(ids)

    def decode(self, token: int) -> Any:
        return self.step([token])

    def step(self, ids: list[int]) -> Any:
        self.model.eval(ids)
        return np.ctypeslib.as_array(self.logits(), (self.model.n_vocab(),))


def open_engine(folder: Path, kind: str, shape: Shape, threads: int, context: int) -> Engine:
    return LlamaCpp(folder / "model.gguf", threads, context)
