"""`paddle-glm tiny --like`: the sizes of a released model, random weights, written as they are made."""

import shutil
import zlib
from collections import namedtuple
from math import prod

import numpy as np
import pytest

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.config import ModelConfig, config_schema, released_configs
from paddle_glm.main import main
from paddle_glm.models.family import family_of
from paddle_glm.models.initialization import initial_rows, initial_value
from paddle_glm.quantization import quantize

SMALL = {
    "chatglm-6b": {"hidden_size": 64, "inner_hidden_size": 96, "num_attention_heads": 4, "vocab_size": 2048},
    "chatglm2-6b": {"hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4, "kv_channels": 16},
}
SMALL["chatglm2-6b"]["padded_vocab_size"] = 2048
SMALL["chatglm3-6b"] = SMALL["chatglm2-6b"]
# The parameters that the released files hold, buffers and a tied head apart.
COUNTS = {"chatglm-6b": 6173286400, "chatglm2-6b": 6243584000, "chatglm3-6b": 6243584000}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released models' configurations, a thousand times smaller."""
    for name, sizes in SMALL.items():
        released = config_schema(name.removesuffix("-6b")).released
        monkeypatch.setitem(released, name, {**released[name], **sizes})


def like(folder, name: str, *flags: str) -> int:
    rows = ["--train_rows", "60", "--dev_rows", "5", "--vocab_size", "400"]
    return main(["tiny", "--output_dir", str(folder), "--like", name, *rows, *flags])


@pytest.mark.parametrize("name", released_configs())
def test_sizes_are_those_of_the_released_model(name):
    config = ModelConfig.from_dict(released_configs()[name])
    assert sum(prod(spec.shape) for spec in family_of(config).parameters(config).values()) == COUNTS[name]


@pytest.mark.parametrize("name", released_configs())
def test_folder_has_the_released_configuration(tmp_path, small, name):
    assert like(tmp_path, name, "--num_layers", "2") == 0
    checkpoint = open_checkpoint(tmp_path / "model")
    checkpoint.validate()
    assert (checkpoint.config.num_layers, checkpoint.config.dtype) == (2, "float16")
    assert {checkpoint.safetensors_dtype(tensor) for tensor in checkpoint.names()} == {"F16"}
    released = ModelConfig.from_dict(released_configs()[name])
    assert checkpoint.config.max_sequence_length == released.max_sequence_length
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.family == checkpoint.config.family == name.removesuffix("-6b")
    assert tokenizer.vocab_size <= checkpoint.config.vocab_size
    assert checkpoint.config.eos_token_id == tokenizer.eos_token_id


def test_weights_are_those_of_an_untrained_model(tmp_path, small):
    assert like(tmp_path, "chatglm2-6b", "--num_layers", "1", "--dtype", "float32", "--seed", "3") == 0
    checkpoint = open_checkpoint(tmp_path / "model")
    for name, spec in checkpoint.parameter_specs.items():
        np.testing.assert_array_equal(checkpoint.read(name), initial_value(name, spec.shape, 3))


def test_values_are_the_same_at_once_and_in_rows():
    shape = (5, 700_001)  # more than one block
    rows = list(initial_rows("a.weight", shape, 0))
    assert [len(block) for block in rows] == [1] * 5
    generator = np.random.default_rng([0, zlib.crc32(b"a.weight")])
    whole = generator.standard_normal(shape, np.float32) * np.float32(0.02)
    np.testing.assert_array_equal(np.concatenate(rows), whole)
    np.testing.assert_array_equal(initial_value("a.weight", shape, 0), whole)


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_are_written_at_once(tmp_path, small, bits):
    assert like(tmp_path, "chatglm2-6b", "--num_layers", "1", "--quantization_bit", str(bits)) == 0
    checkpoint = open_checkpoint(tmp_path / "model")
    checkpoint.validate()
    assert checkpoint.config.quantization_bit == bits
    name = "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"
    expected = quantize(initial_value(name, (192, 64), 0), bits, checkpoint.config.quantization_group_size)
    np.testing.assert_array_equal(checkpoint.read(name), expected.values)
    np.testing.assert_array_equal(checkpoint.read(name + "_scale"), expected.scale)
    assert checkpoint.safetensors_dtype("transformer.embedding.word_embeddings.weight") == "F16"


def test_too_little_disk_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, int(3e9)))
    assert like(tmp_path, "chatglm2-6b") == 2
    assert "3.0 GB free" in (message := capsys.readouterr().err) and "needs 12.5 GB" in message
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--like", "chatglm2-6b", "--hidden_size", "64"], "--hidden_size 64: --like chatglm2-6b decides"),
        (["--like", "chatglm2-6b", "--family", "chatglm"], "--family chatglm: --like chatglm2-6b decides"),
        (["--dtype", "float16"], "--dtype float16: it needs --like"),
        (["--quantization_bit", "4"], "--quantization_bit 4: it needs --like"),
        (["--like", "chatglm2-6b", "--quantization_embeddings"], "it needs --quantization_bit"),
    ],
)
def test_a_flag_that_would_change_nothing_is_refused(tmp_path, capsys, flags, words):
    assert main(["tiny", "--output_dir", str(tmp_path), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
