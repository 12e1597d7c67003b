"""`rope_ratio` of the models for long texts: another computation in ChatGLM2 than in ChatGLM3."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.layers.rotary import rotary_table
from tests.models import numpy_chatglm2

IDS = np.array([5, 9, 333, 60, 8, 21, 7, 400, 11])


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3"])
def test_logits_with_a_ratio(tiny_checkpoint: Path, family: str, tmp_path: Path) -> None:
    config = replace(ModelConfig.from_pretrained(tiny_checkpoint), family=family)
    found = {}
    for ratio in (1, 50):
        model = AutoModel.from_config(replace(config, rope_ratio=ratio))
        generator = np.random.default_rng(0)
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.set_value(generator.normal(0, 0.1, parameter.shape).astype("float32"))
        model.save_pretrained(tmp_path / f"{ratio}")
        opened = AutoModel.from_pretrained(tmp_path / f"{ratio}")
        with paddle.no_grad():
            found[ratio] = opened(paddle.to_tensor(IDS[None])).logits[0].numpy()
        checkpoint = open_checkpoint(tmp_path / f"{ratio}")
        weights = {name: checkpoint.read(name) for name in checkpoint.parameter_specs}
        values = json.loads((tmp_path / f"{ratio}" / "config.json").read_text())
        assert np.abs(found[ratio] - numpy_chatglm2.logits(weights, values, IDS)).max() < 1e-5
    assert np.abs(found[1] - found[50]).max() > 0.01
    with pytest.raises(InputError, match="rope_ratio = 50: PaddleNLP's classes do not read it"):
        reshard(tmp_path / "50", tmp_path / "nlp", 1, file_format="pdparams")


def test_half_precision_divides_rounded_positions() -> None:
    """ChatGLM2 counts in half precision there: position 2049 is 2048, and so is what the ratio divides."""
    table = rotary_table(2050, 8, "float16", position_scale=16)
    np.testing.assert_array_equal(table[2049], table[2048])
    np.testing.assert_array_equal(table[32], rotary_table(3, 8, "float16")[2])
