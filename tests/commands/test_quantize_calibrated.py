"""`paddle-glm quantize --method gptq`, from rows in a file to a folder that answers."""

import json

import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.main import main


@pytest.fixture
def rows_file(tiny_rows, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(tiny_rows, ensure_ascii=False), encoding="utf-8")
    return path


def quantize(checkpoint, output, *flags) -> int:
    return main(
        ["quantize", "--model_name_or_path", str(checkpoint), "--output_path", str(output), *map(str, flags)]
    )


def test_rows_of_a_file_calibrate(tiny_checkpoint, rows_file, tmp_path, capsys):
    calibrated, plain = tmp_path / "gptq", tmp_path / "nearest"
    rows = ("--calibration_file", rows_file, "--calibration_rows", 12, "--src_length", 32, "--tgt_length", 32)
    assert not quantize(
        tiny_checkpoint, calibrated, "--bits", 4, "--group_size", 32, "--method", "gptq", *rows
    )
    assert "4 bits" in capsys.readouterr().out
    assert not quantize(tiny_checkpoint, plain, "--bits", 4, "--group_size", 32)
    ours, theirs = open_checkpoint(calibrated), open_checkpoint(plain)
    ours.validate()
    assert ours.config == theirs.config
    differing = {name for name in ours.parameter_specs if (ours.read(name) != theirs.read(name)).any()}
    packed = {name for name, spec in ours.parameter_specs.items() if spec.dtype == "int8"}
    assert packed <= differing <= {name for name in ours.parameter_specs if ours.parameter_specs[name].dtype}
    assert AutoModel.from_pretrained(calibrated).config.quantization_group_size == 32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "gptq"], "--method gptq needs --calibration_file"),
        (["--calibration_file", "rows.json"], "give --method gptq too"),
        (["--method", "gptq", "--calibration_file", "none.json"], "none.json"),
    ],
)
def test_flags_that_do_not_go_together(tiny_checkpoint, tmp_path, capsys, flags, message):
    assert quantize(tiny_checkpoint, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
