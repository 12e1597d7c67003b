"""`finetune --save_format pdparams`: PaddleNLP's own class computes what the trained model computes."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer as OurTokenizer
from paddle_glm.checkpoint import is_complete, open_checkpoint
from paddle_glm.tiny.grammar import Row
from tests.training.finetune_helpers import finetune, max_parameter_difference, resumable_files, write_rows

RUN = (
    "--do_train --max_steps 2 --per_device_train_batch_size 2 --learning_rate 1e-2 --save_steps 2 "
    "--report_to none"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_rows: list[Row]) -> Path:
    """The same run with both formats."""
    folder = tmp_path_factory.mktemp("formats")
    rows = write_rows(folder / "rows", tiny_rows)
    for name in ("safetensors", "pdparams"):
        start = ["--model_name_or_path", tiny_checkpoint, "--task_name_or_path", rows]
        assert finetune(f"{RUN} --save_format {name}", *start, "--output_dir", folder / name) == 0
    return folder


def test_both_formats_hold_the_same_model(runs: Path) -> None:
    assert (runs / "pdparams" / "model_state.pdparams").is_file()
    assert not (runs / "pdparams" / "model.safetensors").exists()
    assert is_complete(runs / "pdparams")
    assert open_checkpoint(runs / "pdparams").is_paddlenlp
    assert max_parameter_difference(runs / "safetensors", runs / "pdparams") == 0
    # What a run continues from is the same either way.
    saved = [runs / name / "checkpoint-2" for name in ("safetensors", "pdparams")]
    assert resumable_files(saved[0]) == resumable_files(saved[1])


def test_paddlenlp_loads_it(runs: Path) -> None:
    from paddlenlp.transformers import AutoTokenizer, ChatGLMv2ForCausalLM

    its = ChatGLMv2ForCausalLM.from_pretrained(str(runs / "pdparams"))
    its.eval()
    ids = paddle.to_tensor(np.array([[5, 9, 33, 2, 17, 8, 21]]))
    with paddle.no_grad():
        expected = AutoModel.from_pretrained(runs / "safetensors")(ids).logits.numpy()
        found = its(ids, attention_mask=paddle.ones_like(ids))[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    its_tokenizer = AutoTokenizer.from_pretrained(str(runs / "pdparams"))
    ours = OurTokenizer.from_pretrained(runs / "pdparams")
    assert its_tokenizer("类型#裙")["input_ids"] == ours("类型#裙")["input_ids"]


def test_a_later_run_replaces_the_other_format(runs: Path, tiny_checkpoint: Path) -> None:
    start = ["--model_name_or_path", tiny_checkpoint, "--task_name_or_path", runs / "rows"]
    flags = f"{RUN} --save_format safetensors --overwrite_output_dir"
    assert finetune(flags, *start, "--output_dir", runs / "pdparams") == 0
    assert not list((runs / "pdparams").glob("*.pdparams"))
    assert max_parameter_difference(runs / "pdparams", runs / "safetensors") == 0


def test_refusals_come_before_training(
    runs: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--model_name_or_path", tiny_checkpoint, "--task_name_or_path", runs / "rows"]
    assert finetune(f"{RUN} --save_format onnx", *start, "--output_dir", runs / "none") == 2
    assert "--save_format onnx: expected one of safetensors, bin, pdparams" in capsys.readouterr().err
    assert finetune(f"{RUN} --lora --save_format pdparams", *start, "--output_dir", runs / "none") == 2
    assert "--save_format pdparams is for whole models" in capsys.readouterr().err
