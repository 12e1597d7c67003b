"""`paddle-glm quantize` writes what `model.quantize` makes, tensor by tensor and without Paddle."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.checkpoint.verify import verify
from paddle_glm.main import main
from tests.paths import ROOT


def quantize(source: Path, target: Path, *flags: str) -> int:
    return main(["quantize", "--model_name_or_path", str(source), "--output_path", str(target), *flags])


def tensors(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(folder)
    checkpoint.validate()
    return {name: checkpoint.read(name) for name in checkpoint.names()}


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--bits", "8"], (8,)),
        ([], (4,)),
        (["--group_size", "16", "--embeddings"], (4, 16, True)),
        (["--group_size", "0"], (4, 0)),
    ],
)
def test_the_folder_holds_what_the_model_would(tiny_checkpoint, tmp_path, capsys, flags, options):
    assert quantize(tiny_checkpoint, tmp_path / "out", *flags) == 0
    assert f"{options[0]} bits" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tiny_checkpoint).quantize(*options)
    found = tensors(tmp_path / "out")
    expected = dict(model.named_arrays())
    assert found.keys() == expected.keys()
    assert all((found[name] == values).all() for name, values in expected.items())
    assert open_checkpoint(tmp_path / "out").config == model.config
    assert (tmp_path / "out" / "tokenizer.model").is_file()
    assert all(finding.ok for finding in verify(tmp_path / "out", nan=True))


def test_floats_are_cast_and_scales_are_not(tiny_checkpoint, tmp_path):
    assert quantize(tiny_checkpoint, tmp_path / "out", "--dtype", "float16") == 0
    kinds = {str(values.dtype) for name, values in tensors(tmp_path / "out").items() if "scale" in name}
    assert kinds == {"float32"}
    whole = {str(values.dtype) for values in tensors(tmp_path / "out").values()}
    assert whole == {"float32", "float16", "int8"}
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert size < sum(path.stat().st_size for path in tiny_checkpoint.glob("*.safetensors")) / 2


@pytest.mark.parametrize("degree", [2, 4])
def test_shards_are_those_of_the_whole_and_merge_to_it(tiny_checkpoint, tmp_path, degree):
    """Of shards, and cut and merged again, integers are the same; a cast leaves them alone."""
    flags = ("--group_size", "32", "--embeddings")
    assert quantize(tiny_checkpoint, tmp_path / "whole", *flags) == 0
    assert quantize(tiny_checkpoint, tmp_path / "cut", *flags, "--tensor_parallel_degree", str(degree)) == 0
    reshard(tiny_checkpoint, tmp_path / "floats", degree)
    assert quantize(tmp_path / "floats", tmp_path / "of_shards", *flags) == 0
    words = ["--model_name_or_path", str(tmp_path / "cut"), "--merge_model_path", str(tmp_path / "merged")]
    assert main(["merge", *words]) == 0
    whole = tensors(tmp_path / "whole")
    for other in ("of_shards", "merged"):
        found = tensors(tmp_path / other)
        assert found.keys() == whole.keys()
        assert all((found[name] == values).all() for name, values in whole.items()), other
    assert all(finding.ok for finding in verify(tmp_path / "cut"))
    half = [*words[:-1], str(tmp_path / "half"), "--dtype", "float16"]
    assert main(["merge", *half]) == 0
    for name, values in tensors(tmp_path / "half").items():
        kept = whole[name].dtype == np.int8 or name.endswith("weight_scale")
        assert values.dtype == (whole[name].dtype if kept else np.float16), name


@pytest.mark.parametrize("file_format", ["bin", "pdparams"])
def test_other_formats_are_read(tiny_checkpoint, tmp_path, file_format):
    reshard(tiny_checkpoint, tmp_path / "source", file_format=file_format)
    assert quantize(tmp_path / "source", tmp_path / "out") == 0
    assert quantize(tiny_checkpoint, tmp_path / "expected") == 0
    found, expected = tensors(tmp_path / "out"), tensors(tmp_path / "expected")
    assert all((found[name] == values).all() for name, values in expected.items())


def test_the_bin_format_holds_integers_and_paddlenlps_does_not(tiny_checkpoint, tmp_path, capfd):
    assert quantize(tiny_checkpoint, tmp_path / "out") == 0
    convert = ["convert", "--model_name_or_path", str(tmp_path / "out"), "--output_path"]
    assert main([*convert, str(tmp_path / "bin"), "--format", "bin"]) == 0
    expected = tensors(tmp_path / "out")
    assert all((expected[name] == values).all() for name, values in tensors(tmp_path / "bin").items())
    assert main([*convert, str(tmp_path / "paddle"), "--format", "paddle"]) == 2
    assert "PaddleNLP cannot load these quantised weights" in capfd.readouterr().err


def test_what_cannot_be_quantised_is_one_line_and_leaves_nothing(tiny_checkpoint, tmp_path, capfd):
    assert quantize(tiny_checkpoint, tmp_path / "out", "--group_size", "48") == 2
    assert "group_size 48 does not divide 64 inputs" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
    assert quantize(tiny_checkpoint, tmp_path / "out") == 0
    assert quantize(tmp_path / "out", tmp_path / "again", "--bits", "8") == 2
    assert "already quantised to 4 bits: start from its float weights" in capfd.readouterr().err
    assert quantize(tiny_checkpoint, tmp_path / "out", "--bits", "8") == 2
    assert "pass --overwrite" in capfd.readouterr().err
    assert quantize(tiny_checkpoint, tmp_path / "out", "--bits", "8", "--overwrite") == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_bit"] == 8


def test_lora_is_not_folded_into_integers(tiny_checkpoint, tmp_path, capfd):
    assert quantize(tiny_checkpoint, tmp_path / "out") == 0
    folder = tmp_path / "adapter"
    from paddle_glm.peft.lora import attach_lora, merge_and_unload
    from paddle_glm.peft.lora_config import LoraConfig

    model = AutoModel.from_pretrained(tmp_path / "out")
    folder.mkdir()
    attach_lora(model, LoraConfig(rank=2)).save(folder)
    words = ["--model_name_or_path", str(tmp_path / "out"), "--lora_path", str(folder)]
    assert main(["merge-lora", *words, "--merge_model_path", str(tmp_path / "merged")]) == 2
    assert "merge the adapter into the float" in capfd.readouterr().err
    with pytest.raises(ValueError, match="cannot be merged into quantised weights"):
        merge_and_unload(model)


def test_no_framework_is_needed(tiny_checkpoint, tmp_path):
    code = f"""
import sys
from paddle_glm.main import main
assert main(["quantize", "--model_name_or_path", {str(tiny_checkpoint)!r}, "--output_path",
             {str(tmp_path / "out")!r}]) == 0
assert not {{"paddle", "torch"}} & {{name.split(".")[0] for name in sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
