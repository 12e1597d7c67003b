"""Folders like THUDM's chatglm2-6b-int4, chatglm-6b-int8 and chatglm-6b-int4-qe compute their weights.

Packing and scales are made here once more, as quantization.py of those folders makes and reads them: scales
of float16, four bits in the order of `compress_int4_weight` and `extract_int4_weight_to_float`.
"""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint, save_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.main import main
from paddle_glm.models.family import get_family
from paddle_glm.models.initialization import initial_value

CHATGLM2 = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "num_layers": 2, "hidden_size": 64,
    "num_attention_heads": 4, "multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 16,
    "ffn_hidden_size": 96, "padded_vocab_size": 160, "seq_length": 64, "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True, "add_bias_linear": False, "rmsnorm": True, "torch_dtype": "float16",
}  # fmt: skip
CHATGLM = {
    "architectures": ["ChatGLMModel"], "model_type": "chatglm", "num_layers": 2, "hidden_size": 64,
    "num_attention_heads": 4, "inner_hidden_size": 96, "vocab_size": 160, "max_sequence_length": 64,
    "layernorm_epsilon": 1e-5, "position_encoding_2d": True, "bos_token_id": 154, "eos_token_id": 155,
    "torch_dtype": "float16", "quantization_embeddings": False,
}  # fmt: skip
LINEAR = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
WORDS = ("word_embeddings.weight", "lm_head.weight")
FOLDERS = {
    "chatglm2-6b-int4": ("chatglm2", 4, False),
    "chatglm2-6b-int8": ("chatglm2", 8, False),
    "chatglm-6b-int4": ("chatglm", 4, False),
    "chatglm-6b-int8": ("chatglm", 8, False),
    "chatglm-6b-int4-qe": ("chatglm", 4, True),
}


def compressed(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """QuantizedLinear.__init__: int8 and float16."""
    scale = (np.abs(weight.astype(np.float32)).max(axis=-1) / (2 ** (bits - 1) - 1)).astype(np.float16)
    integers = np.round(weight.astype(np.float32) / scale.astype(np.float32)[:, None]).astype(np.int8)
    if bits == 8:
        return integers, scale
    out = np.zeros((integers.shape[0], integers.shape[1] // 2), np.uint8)
    for row, numbers in enumerate(integers.astype(np.uint8)):
        for column in range(out.shape[1]):
            out[row, column] = (int(numbers[2 * column]) << 4 & 0xF0) | (int(numbers[2 * column + 1]) & 15)
    return out.view(np.int8), scale


def extracted(values: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """extract_weight_to_float."""
    scale = scale.astype(np.float32)[:, None]
    if bits == 8:
        return values * scale
    out = np.zeros((values.shape[0], 2 * values.shape[1]), np.float32)
    for row, packed in enumerate(values.tolist()):
        for column, byte in enumerate(packed):
            low = byte & 15
            out[row, 2 * column], out[row, 2 * column + 1] = byte >> 4, low - 16 if low > 7 else low
    return out * scale


def write(folder: Path, family: str, bits: int, embeddings: bool, file_format: str) -> dict[str, np.ndarray]:
    """A folder as THUDM's are; returns the float weights that it stands for, by their hub names."""
    values = {**(CHATGLM if family == "chatglm" else CHATGLM2), "quantization_bit": bits}
    if family == "chatglm":
        values["quantization_embeddings"] = embeddings
    config = ModelConfig.from_dict({**values, "quantization_bit": 0})
    tensors, floats = {}, {}
    for name, spec in get_family(family).float_parameters(config).items():
        value = initial_value(name, spec.shape, 3).astype(np.float16)
        names = [name, "lm_head.weight"] if family == "chatglm" and "word_emb" in name else [name]
        floats[name] = value.astype(np.float32)
        for name in names:
            tensors[name] = value
            if name.endswith(LINEAR) or (embeddings and name.endswith(WORDS)):
                tensors[name], tensors[f"{name}_scale"] = compressed(value, bits)
                floats[names[0]] = extracted(tensors[name], tensors[f"{name}_scale"], bits)
    for layer in range(2 if family == "chatglm" else 0):
        tensors[f"transformer.layers.{layer}.attention.rotary_emb.inv_freq"] = np.ones(4, np.float16)
    folder.mkdir()
    save_checkpoint(folder, tensors.items(), "40KB", file_format)
    (folder / "config.json").write_text(json.dumps(values))
    return floats


@pytest.fixture(scope="module", params=FOLDERS)
def made(request, tmp_path_factory):
    """A folder, the float model of its weights, and what it should say."""
    family, bits, embeddings = FOLDERS[request.param]
    folder = tmp_path_factory.mktemp("thudm") / request.param
    floats = write(folder, family, bits, embeddings, "bin")
    config = ModelConfig.from_dict(CHATGLM if family == "chatglm" else CHATGLM2)
    exact = AutoModel.from_config(config)
    for name, parameter in exact.named_parameters():
        parameter.set_value(floats[name])
    return folder, exact, (bits, embeddings)


def batch(config: ModelConfig) -> paddle.Tensor:
    ids = np.random.default_rng(0).integers(3, 140, (2, 12))
    if config.bos_token_id is not None:
        ids[:, 6:8] = config.bos_token_id - 3, config.bos_token_id
    return paddle.to_tensor(ids)


def test_the_folder_computes_its_weights(made):
    folder, exact, (bits, embeddings) = made
    model = AutoModel.from_pretrained(folder)
    assert (model.config.quantization_bit, model.config.quantization_embeddings) == (bits, embeddings)
    assert model.config.quantization_group_size is None
    ids = batch(model.config)
    assert float((model(ids).logits - exact(ids).logits).abs().max()) < 1e-5
    stored = open_checkpoint(folder)
    for name, parameter in model.named_parameters():
        assert (parameter.numpy() == stored.read(name).astype(parameter.numpy().dtype)).all(), name
    half = AutoModel.from_pretrained(folder, dtype=stored.float_dtype)
    assert half.dtype == "float16" and {str(p.dtype) for p in half.parameters()} == {
        "paddle.int8", "paddle.float16", "paddle.float32",
    }  # fmt: skip


def test_it_is_verified_cut_merged_and_converted(made, tmp_path, capfd):
    folder, exact, _ = made
    assert main(["verify", str(folder), "--nan"]) == 0
    reshard(folder, tmp_path / "cut", 2)
    reshard(tmp_path / "cut", tmp_path / "merged")
    one, other = open_checkpoint(folder), open_checkpoint(tmp_path / "merged")
    for name in one.parameter_specs:
        assert (
            one.safetensors_dtype(name) == other.safetensors_dtype(name)
            and (one.read(name) == other.read(name)).all()
        ), name
    ids = batch(exact.config)
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    assert float((merged(ids).logits - exact(ids).logits).abs().max()) < 1e-5
    words = ["--model_name_or_path", str(folder), "--output_path", str(tmp_path / "again")]
    assert main(["quantize", *words]) == 2 and "already" in capfd.readouterr().err


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_every_file_format(file_format, tmp_path):
    write(tmp_path / "folder", "chatglm2", 4, False, file_format)
    assert len(list((tmp_path / "folder").glob(f"*.{file_format}"))) > 1
    model = AutoModel.from_pretrained(tmp_path / "folder", quantization_bit=4)
    assert model.config.quantization_bit == 4
