"""The Python of docs/python.md runs, from top to bottom, on a small model."""

import re
from pathlib import Path

import pytest

from paddle_glm import AutoModel
from paddle_glm.checkpoint import save_checkpoint
from paddle_glm.models.prefix_encoder import PREFIX_ENCODER
from paddle_glm.peft.prefix import attach_prefix
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.filterwarnings("ignore:the prefix of 128 tokens is untrained")
def test_the_page_runs(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chatglm2-6b").symlink_to(tiny_checkpoint)
    trained = AutoModel.from_pretrained(tiny_checkpoint)
    attach_prefix(trained, 128, projection=False)
    folder = tmp_path / "ptuning" / "checkpoint-3000"
    folder.mkdir(parents=True)
    arrays = {name: value for name, value in trained.named_arrays() if name.startswith(PREFIX_ENCODER)}
    save_checkpoint(folder, arrays.items(), file_format="bin")
    assert len(BLOCKS) == 5
    names: dict = {}
    for block in BLOCKS:
        # A model that was never trained seldom ends an answer: they are cut short here.
        short = block.replace("past_key_values=True", "past_key_values=True, max_new_tokens=9")
        exec(
            short.replace("max_length=2048", "max_new_tokens=9").replace(
                "history=[])", "history=[], max_new_tokens=9)"
            ),
            names,
        )
    assert isinstance(names["response"], str) and len(names["past_key_values"]) == 2
    assert names["model"].config.quantization_bit == 4
    assert (names["model"].transformer.prefix_encoder.embedding.weight == next(iter(arrays.values()))).all()
