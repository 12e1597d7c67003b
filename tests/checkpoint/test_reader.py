"""Every layout of a checkpoint, in and out, and what each tensor-parallel rank reads of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from paddle_glm.checkpoint import Checkpoint, atomic_folder, open_checkpoint, save_checkpoint, save_tp_shard
from paddle_glm.checkpoint.save import parse_size
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from tests.paths import reference

MODELS = ("chatglm2_6b_tiny_seed0", "chatglm2_6b_v1_tiny_seed0", "chatglm3_6b_tiny_seed0")
LAYOUTS = ("hf", "hf_fp16_sharded", "hf_safetensors")
# Heads and groups that 8 ranks can share; a vocabulary that does not divide by 2.
CONFIG = ModelConfig(
    num_layers=2, hidden_size=16, num_attention_heads=8, num_key_value_heads=2, head_dim=2,
    ffn_hidden_size=24, vocab_size=35, max_sequence_length=32,
)  # fmt: skip
INV_FREQ = "transformer.rotary_pos_emb.inv_freq"


def synthetic(config: ModelConfig = CONFIG, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    table = family_of(config).parameters(config)
    return {name: rng.normal(size=spec.shape).astype(dtype) for name, spec in table.items()}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A hub folder of the synthetic model."""
    with atomic_folder(tmp_path / "full") as folder:
        CONFIG.save_pretrained(folder)
        save_checkpoint(folder, synthetic().items())
    return tmp_path / "full"


def shards(source: Checkpoint, target: Path, degree: int) -> Path:
    with atomic_folder(target) as folder:
        source.config.save_pretrained(folder)
        for rank in range(degree):
            save_tp_shard(
                folder, rank, degree, ((name, source.read(name, rank, degree)) for name in source.names())
            )
    return target


def assert_equal(left: Checkpoint, right: Checkpoint) -> None:
    assert set(left.names()) == set(right.names())
    for name in left.names():
        assert left.safetensors_dtype(name) == right.safetensors_dtype(name)
        assert left.shape(name) == right.shape(name)
        assert left.read(name).tobytes() == right.read(name).tobytes(), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_reference_checkpoints_fit_their_tables(model: str, layout: str) -> None:
    checkpoint = open_checkpoint(reference(model) / layout)
    checkpoint.validate()
    base = open_checkpoint(reference(model) / "hf")
    assert set(checkpoint.names()) == set(base.names())
    for name in checkpoint.names():
        if name != INV_FREQ:  # the others are representable in float16, so all layouts hold the same values
            np.testing.assert_array_equal(checkpoint.read(name), base.read(name))


def test_safetensors_agree_with_the_reference_library() -> None:
    folder = reference(MODELS[0]) / "hf_safetensors"
    expected = load_file(folder / "model.safetensors")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.names() == list(expected)
    for name, tensor in expected.items():
        assert checkpoint.read(name).tobytes() == tensor.tobytes()


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB", 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_out_and_in_again_is_bit_exact(
    tmp_path: Path, model: str, layout: str, max_shard_size: str | int, file_format: str
) -> None:
    checkpoint = open_checkpoint(reference(model) / layout)
    save_checkpoint(
        tmp_path, ((name, checkpoint.read(name)) for name in checkpoint.names()), max_shard_size, file_format
    )
    suffix = file_format if file_format == "safetensors" else "bin"
    assert len(list(tmp_path.glob(f"*.{suffix}.index.json"))) == (max_shard_size != "5GB")
    assert_equal(open_checkpoint(tmp_path), checkpoint)
    for index in tmp_path.glob("*.index.json"):
        index.unlink()
    assert_equal(open_checkpoint(tmp_path), checkpoint)


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_reference_shards_give_the_whole_again(tmp_path: Path, model: str, degree: int) -> None:
    checkpoint = open_checkpoint(reference(model) / "hf")
    opened = open_checkpoint(shards(checkpoint, tmp_path / "shards", degree))
    assert opened.tensor_parallel_degree == degree
    opened.validate()
    assert_equal(opened, checkpoint)


@pytest.mark.parametrize("source", [1, 2, 4, 8])
@pytest.mark.parametrize("target", [1, 2, 4, 8])
def test_shards_of_any_degree_serve_any_other(tmp_path: Path, full: Path, source: int, target: int) -> None:
    whole = synthetic()
    table = family_of(CONFIG).parameters(CONFIG)
    opened = open_checkpoint(shards(open_checkpoint(full), tmp_path / "shards", source))
    opened.validate()
    for name, tensor in whole.items():
        assert opened.shape(name) == tensor.shape
        for rank in range(target):
            expected = table[name].sharding.split(tensor, rank, target)
            np.testing.assert_array_equal(opened.read(name, rank, target), expected)
            lazy = opened.read_lazy(name, rank, target)
            assert lazy.shape == expected.shape
            assert b"".join(chunk.tobytes() for chunk in lazy.chunks()) == expected.tobytes()


def test_reading_copies_only_where_it_must(full: Path) -> None:
    checkpoint = open_checkpoint(full)
    for name, rank, degree in (
        ("transformer.encoder.final_layernorm.weight", 1, 2),
        ("transformer.embedding.word_embeddings.weight", 0, 2),
        ("transformer.encoder.layers.0.mlp.dense_h_to_4h.weight", 0, 1),
    ):
        array = checkpoint.read(name, rank, degree)
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_large_row_parallel_weights_are_assembled_in_blocks(tmp_path: Path) -> None:
    config = replace(CONFIG, num_layers=1, hidden_size=1024, ffn_hidden_size=4096)
    whole = synthetic(config, np.float16)
    with atomic_folder(tmp_path / "full") as folder:
        config.save_pretrained(folder)
        save_checkpoint(folder, whole.items())
    opened = open_checkpoint(shards(open_checkpoint(tmp_path / "full"), tmp_path / "shards", 4))
    name = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"
    chunks = [chunk.copy() for chunk in opened.read_lazy(name).chunks()]
    assert len(chunks) == 2
    np.testing.assert_array_equal(np.concatenate(chunks), whole[name])


def test_casting(full: Path) -> None:
    checkpoint = open_checkpoint(full)
    name = checkpoint.names()[0]
    for dtype in (np.float16, ml_dtypes.bfloat16):
        lazy = checkpoint.read_lazy(name, dtype=np.dtype(dtype))
        cast = np.concatenate([chunk.reshape(-1) for chunk in lazy.chunks()])
        np.testing.assert_array_equal(cast, synthetic()[name].astype(dtype).reshape(-1))


def test_values_too_large_for_float16_are_an_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, [("w", np.array([1, 7e4, np.inf], np.float32))])
    with pytest.raises(InputError, match=r"w contains 70000, which overflows float16 .*: use bfloat16"):
        list(open_checkpoint(tmp_path).read_lazy("w", dtype=np.dtype(np.float16)).chunks())
    save_checkpoint(tmp_path, [("w", np.array([1, np.inf, np.nan], np.float32))])
    list(open_checkpoint(tmp_path).read_lazy("w", dtype=np.dtype(np.float16)).chunks())


def test_one_error_lists_all_that_does_not_fit(tmp_path: Path) -> None:
    whole = synthetic()
    for name in [name for name in whole if ".layers.0." in name or ".layers.1." in name]:
        del whole[name]
    whole["transformer.output_layer.weight"] = np.zeros((35, 15), np.float32)
    whole["lora"] = np.zeros(1, np.float32)
    whole[INV_FREQ] = np.zeros(1, np.float32)
    CONFIG.save_pretrained(tmp_path)
    save_checkpoint(tmp_path, whole.items())
    with pytest.raises(InputError) as caught:
        open_checkpoint(tmp_path).validate()
    message = str(caught.value)
    assert "14 missing: transformer.encoder.layers.0.input_layernorm.weight" in message
    assert "and 4 more" in message
    assert "1 unexpected: lora" in message
    assert "1 wrong shape or dtype: transformer.output_layer.weight (35, 15), expected (35, 16)" in message
    assert "inv_freq" not in message


def test_reading_says_what_is_wrong(tmp_path: Path, full: Path) -> None:
    checkpoint = open_checkpoint(full)
    with pytest.raises(InputError, match="has no tensor 'nothing'"):
        checkpoint.read("nothing")
    with pytest.raises(InputError, match="rank 2 is outside"):
        checkpoint.read(checkpoint.names()[0], 2, 2)
    with pytest.raises(InputError, match="degree 3 cannot split 8 blocks"):
        checkpoint.read("transformer.encoder.layers.0.self_attention.dense.weight", 0, 3)
    whole = {**synthetic(), "lora": np.zeros(1), "transformer.output_layer.weight": np.zeros((4, 4))}
    CONFIG.save_pretrained(tmp_path)
    save_checkpoint(tmp_path, whole.items())
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="chatglm2 has no tensor 'lora', so its sharding is unknown"):
        checkpoint.read("lora", 0, 2)
    with pytest.raises(InputError, match=r"output_layer.weight has shape \(4, 4\), expected \(35, 16\)"):
        checkpoint.read("transformer.output_layer.weight", 0, 2)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edit_index(folder: Path, **weight_map: str) -> None:
    path = folder / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].update(weight_map)
    path.unlink()
    path.write_text(json.dumps(index))


def cut(folder: Path) -> None:
    path = folder / "pytorch_model-00002-of-00004.bin"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-2000])


def copy_twice(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").unlink()
    (folder / "pytorch_model-00002-of-00004.bin").unlink()
    shutil.copy(folder / "pytorch_model-00001-of-00004.bin", folder / "pytorch_model-00002-of-00004.bin")


def no_index_and_one_missing(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").unlink()
    (folder / "pytorch_model-00004-of-00004.bin").unlink()


def index_without_map(folder: Path) -> None:
    (folder / "pytorch_model.bin.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            remove("pytorch_model-00003-of-00004.bin"),
            "lacks pytorch_model-00003-of-00004.bin, listed in",
        ),
        (no_index_and_one_missing, "has 3 of 4 numbered weight files"),
        (cut, "pytorch_model-00002-of-00004.bin is not a torch checkpoint, or truncated"),
        (copy_twice, "in more than one file"),
        (
            lambda folder: edit_index(folder, ghost="pytorch_model-00001-of-00004.bin"),
            "the index lists ghost",
        ),
        (lambda folder: edit_index(folder, evil="../secret.bin"), "'evil' is mapped to '../secret.bin'"),
        (index_without_map, "is not a weight index"),
        (lambda folder: [path.unlink() for path in folder.glob("pytorch*")], "has no weights: expected"),
        (remove("config.json"), "config.json not found"),
    ],
)
def test_damaged_folders(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(reference(MODELS[0]) / "hf_fp16_sharded", folder)
    folder.chmod(0o755)
    damage(folder)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder).validate()


def test_shards_that_do_not_belong_together(tmp_path: Path, full: Path) -> None:
    checkpoint = open_checkpoint(full)
    two = shards(checkpoint, tmp_path / "two", 2)
    four = shards(checkpoint, tmp_path / "four", 4)
    shutil.copy(two / "model-tp00-of-02.safetensors", tmp_path / "kept")
    (two / "model-tp00-of-02.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-tp00-of-02\.safetensors is missing, manifest\.json says"):
        open_checkpoint(two)
    (two / "manifest.json").unlink()
    with pytest.raises(
        InputError, match=r"lacks model-tp00-of-02\.safetensors: copy the shards of all ranks"
    ):
        open_checkpoint(two)
    shutil.copy(tmp_path / "kept", four / "model-tp00-of-02.safetensors")
    with pytest.raises(InputError, match=r"different tensor-parallel degrees \[2, 4\]"):
        open_checkpoint(four)
    shutil.copy(full / "model.safetensors", two / "model.safetensors")
    shutil.copy(tmp_path / "kept", two / "model-tp00-of-02.safetensors")
    with pytest.raises(InputError, match=r"shards and model\.safetensors: keep one of them"):
        open_checkpoint(two)
    with pytest.raises(InputError, match="is not a folder"):
        open_checkpoint(tmp_path / "kept")


def test_sizes() -> None:
    assert [parse_size(size) for size in ("5GB", "2.5 gib", 7, "300")] == [5 * 10**9, 5 * 2**29, 7, 300]
    for size in ("five", "5 apples", "0GB", "-1"):
        with pytest.raises(InputError, match="expected a number and a unit"):
            parse_size(size)


def test_saving_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="duplicate tensor 'w'"):
        save_checkpoint(tmp_path, [("w", np.zeros(1)), ("w", np.zeros(1))])
    with pytest.raises(InputError, match="format 'onnx' is unknown"):
        save_checkpoint(tmp_path, [], file_format="onnx")
    with pytest.raises(InputError, match="rank 2 is outside"):
        save_tp_shard(tmp_path, 2, 2, [])
