"""merge and convert: bit-exact, streaming, without a framework."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.merge import make_shards, run_timed
from paddle_glm.checkpoint import is_complete, open_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from tests.checkpoint.test_reader import CONFIG, LAYOUTS, assert_equal
from tests.paths import ROOT, reference


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Random shards for four ranks."""
    make_shards(tmp_path / "four", CONFIG, 4)
    return tmp_path / "four"


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
@pytest.mark.parametrize("other", [1, 2, 4, 8])
def test_any_degree_to_any_other_and_back(tmp_path: Path, degree: int, other: int) -> None:
    source = reference("chatglm2_6b_tiny_seed0") / "hf" if 8 not in (degree, other) else None
    if source is None:
        make_shards(tmp_path / "random", CONFIG, 1)
        source = tmp_path / "random"
    reshard(source, tmp_path / "a", degree)
    reshard(tmp_path / "a", tmp_path / "b", other)
    opened = open_checkpoint(tmp_path / "b")
    assert opened.tensor_parallel_degree == other
    assert is_complete(tmp_path / "b")
    opened.validate()
    assert_equal(opened, open_checkpoint(source))
    reshard(tmp_path / "b", tmp_path / "c", degree)
    for path in (tmp_path / "a").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "c" / path.name).read_bytes()


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_formats_convert_bit_exactly(tmp_path: Path, layout: str, file_format: str) -> None:
    source = reference("chatglm3_6b_tiny_seed0") / layout
    reshard(source, tmp_path / "out", file_format=file_format, max_shard_size="200KB")
    assert_equal(open_checkpoint(tmp_path / "out"), open_checkpoint(source))
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_what_goes_along(tmp_path: Path, four: Path) -> None:
    for name in (
        "tokenizer.model",
        "tokenizer_config.json",
        "modeling_chatglm.py",
        "optimizer.pdopt",
        "scheduler",
    ):
        (four / name).write_text(name)
    reshard(four, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    model = {"config.json", "manifest.json", "model.safetensors"}
    assert names == model | {"tokenizer.model", "tokenizer_config.json", "modeling_chatglm.py"}


def test_a_cast_is_written_to_the_config(tmp_path: Path, four: Path) -> None:
    reshard(four, tmp_path / "out", dtype="float32")
    opened = open_checkpoint(tmp_path / "out")
    assert opened.config.dtype == "float32"
    assert {opened.safetensors_dtype(name) for name in opened.names()} == {"F32"}
    for name in opened.names():
        np.testing.assert_array_equal(opened.read(name), open_checkpoint(four).read(name).astype(np.float32))
    reshard(tmp_path / "out", tmp_path / "back", degree=4, dtype="float16")
    assert_equal(open_checkpoint(tmp_path / "back"), open_checkpoint(four))
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == "float16"


def test_in_place(tmp_path: Path, four: Path) -> None:
    reshard(four, tmp_path / "copy")
    reshard(four, four, degree=2, overwrite=True)
    assert open_checkpoint(four).tensor_parallel_degree == 2
    assert_equal(open_checkpoint(four), open_checkpoint(tmp_path / "copy"))


def test_refusals(tmp_path: Path, four: Path) -> None:
    with pytest.raises(InputError, match="exists and is not empty"):
        reshard(four, four)
    with pytest.raises(InputError, match="contains, the source"):
        reshard(four, tmp_path, overwrite=True)
    with pytest.raises(InputError, match="dtype 'int7' is unknown"):
        reshard(four, tmp_path / "out", dtype="int7")
    with pytest.raises(InputError, match="tensor_parallel_degree 2 as bin"):
        reshard(four, tmp_path / "out", 2, file_format="bin")
    with pytest.raises(InputError, match="tensor_parallel_degree 0"):
        reshard(four, tmp_path / "out", 0)
    with pytest.raises(InputError, match="degree 3 cannot split 8 blocks"):
        reshard(four, tmp_path / "out", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["four"]


def test_a_full_disk_is_noticed_before_the_work(
    tmp_path: Path, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="GB free"):
        reshard(four, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_the_commands_import_no_framework(tmp_path: Path, four: Path) -> None:
    code = f"""
import sys
from paddle_glm.main import main
merge = ["merge", "--model_name_or_path", {str(four)!r}, "--merge_model_path", {str(tmp_path / "merged")!r}]
assert not main(merge)
convert = ["convert", "--model_name_or_path", {str(tmp_path / "merged")!r}, "--format", "bin"]
assert not main([*convert, "--output_path", {str(tmp_path / "bin")!r}, "--dtype", "bfloat16"])
assert main(merge) == 2
print(sorted({{"paddle", "paddlenlp", "torch", "sentencepiece", "jieba"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "GB/s" in done.stdout
    assert "--overwrite" in done.stderr and "Traceback" not in done.stderr
    assert_equal(open_checkpoint(tmp_path / "merged"), open_checkpoint(four))
    converted = open_checkpoint(tmp_path / "bin")
    assert {converted.safetensors_dtype(name) for name in converted.names()} == {"BF16"}


@pytest.mark.integration
def test_memory_stays_below_the_largest_tensor(tmp_path: Path) -> None:
    # Embedding and head are 128 MiB each, the whole is 400 MB.
    config = ModelConfig(
        num_layers=1, hidden_size=2048, num_attention_heads=16, num_key_value_heads=2, vocab_size=32768,
        ffn_hidden_size=8192, dtype="float16",
    )  # fmt: skip
    assert make_shards(tmp_path / "shards", config, 4) > 350e6
    base = [sys.executable, "-m", "paddle_glm.main", "merge", "--model_name_or_path"]
    for flags in ([], ["--dtype", "bfloat16"], ["--tensor_parallel_degree", "2"]):
        out = tmp_path / "-".join(["out", *flags])
        _, peak = run_timed([*base, str(tmp_path / "shards"), "--merge_model_path", str(out), *flags])
        assert 0 < peak < 100 * 2**20, f"{peak / 2**20:.0f} MiB with {flags}"
