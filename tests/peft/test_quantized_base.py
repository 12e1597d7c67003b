"""Prefixes and LoRA beside weights of 8 and 4 bits: the gradients of the float model of the same weights."""

import math
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.main import main
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.training.trainer import FinetuneTrainer
from tests.quantized import dequantized
from tests.training.finetune_helpers import finetune, losses, write_rows

BITS = {"8": ["--quantization_bit", "8"], "4": ["--quantization_bit", "4", "--quantization_group_size", "16"]}
METHODS = {"prefix": "--pre_seq_len 6", "lora": "--lora True --lora_rank 4"}
SHORT = """
    --do_train --max_steps 3 --save_steps 2 --src_length 24 --tgt_length 12 --logging_steps 1
    --per_device_train_batch_size 4 --learning_rate 1e-3 --disable_tqdm True --report_to none
"""


def attach(kind, model):
    """An adapter with numbers other than zero."""
    if kind == "prefix":
        return attach_prefix(model, 3, projection=True, dropout=0.0, seed=1)
    adapter = attach_lora(model, LoraConfig(rank=4), seed=1)
    random = np.random.default_rng(5)
    arrays = {name: random.normal(0, 0.1, spec.shape) for name, spec in adapter.specs.items()}
    adapter.load_arrays({adapter.file_names[name]: array for name, array in arrays.items()})
    return adapter


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("way", [(8,), (4,), (4, 16, True), (4, 0)])
def test_loss_and_gradients_are_those_of_the_dequantised_weights(tiny_checkpoint, kind, way):
    model = AutoModel.from_pretrained(tiny_checkpoint).quantize(*way)
    floats = dequantized(model)
    ids = paddle.to_tensor(np.random.default_rng(0).integers(5, 400, (2, 14)))
    found = []
    for one in (floats, model):
        adapter = attach(kind, one)
        adapter.freeze_base_model()
        one.train()
        loss = one(ids, labels=ids).loss
        loss.backward()
        found.append((float(loss), {name: value.grad.numpy() for name, value in adapter.parameters()}))
        assert all(value.dtype == paddle.float32 for _, value in adapter.parameters())
    (expected, gradients), (loss, others) = found
    assert loss == pytest.approx(expected, abs=1e-5)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    assert largest > 1e-4 and gradients.keys() == others.keys()
    assert all(np.abs(others[name] - value).max() < 1e-5 * largest for name, value in gradients.items())


@pytest.fixture(scope="module")
def rows(tiny_rows, tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), tiny_rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", BITS)
def test_finetuning_and_resuming_beside_a_quantised_base(tiny_checkpoint, rows, tmp_path, method, bits):
    """While a float base is read and from a quantised folder: the same run; the base is not written."""
    packed = tmp_path / "packed"
    size = ["--group_size", BITS[bits][3]] if bits == "4" else []
    words = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(packed), "--bits", bits]
    assert main(["quantize", *words, *size]) == 0
    flags = f"{METHODS[method]} {SHORT} --task_name_or_path {rows}"
    read, opened = tmp_path / "read", tmp_path / "opened"
    assert finetune(flags, "--model_name_or_path", tiny_checkpoint, *BITS[bits], "--output_dir", read) == 0
    assert finetune(flags, "--model_name_or_path", packed, "--output_dir", opened) == 0
    assert losses(read) == losses(opened) and all(map(math.isfinite, losses(read)))
    (name,) = (path.name for path in read.glob("*.safetensors"))
    assert name in ("prefix_model.safetensors", "adapter_model.safetensors")
    assert (read / name).read_bytes() == (opened / name).read_bytes()
    (opened / name).unlink()
    again = ["--resume_from_checkpoint", opened / "checkpoint-2", "--output_dir", opened]
    assert finetune(flags, "--model_name_or_path", packed, *again) == 0
    assert (read / name).read_bytes() == (opened / name).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_trained_reaches_the_optimizer(tiny_checkpoint, rows, tmp_path, method, monkeypatch):
    """Behind an embedding of integers, the model's first parameter; in half precision it would be half."""
    packed, out = tmp_path / "packed", tmp_path / "out"
    words = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(packed), "--embeddings"]
    assert main(["quantize", *words, "--group_size", "16"]) == 0
    seen = []
    create = FinetuneTrainer.create_optimizer

    def watched(self, *args):
        seen.append((create(self, *args)._parameter_list, dict(self.adapter.parameters())))
        return self.optimizer

    monkeypatch.setattr(FinetuneTrainer, "create_optimizer", watched)
    base = ["--model_name_or_path", str(packed)]
    assert finetune(f"{METHODS[method]} {SHORT} --task_name_or_path {rows}", *base, "--output_dir", out) == 0
    ((given, trained),) = seen
    assert {one.name for one in given} == {one.name for one in trained.values()}
    history = losses(out)
    assert len(history) == 3 and all(map(math.isfinite, history))
    flag = "--ptuning_checkpoint" if method == "prefix" else "--lora_path"
    answers = ["--data_file", str(rows / "dev.json"), "--tgt_length", "4"]
    written = ["--predict_file", str(tmp_path / "answers.json")]
    assert main(["predict", *base, flag, str(out), *answers, *written]) == 0
    assert len((tmp_path / "answers.json").read_text(encoding="utf-8").splitlines()) == 6


def test_all_of_a_quantised_model_is_not_trained(tiny_checkpoint, rows, tmp_path, capfd):
    flags = f"{SHORT} --task_name_or_path {rows} --output_dir {tmp_path / 'out'}"
    words = ["--model_name_or_path", tiny_checkpoint, "--quantization_bit", "4"]
    assert finetune(flags, *words) == 2
    assert "weights of 4 bits are not trained: give --lora True or --pre_seq_len N" in capfd.readouterr().err
    AutoModel.from_pretrained(tiny_checkpoint).quantize(8).save_pretrained(tmp_path / "packed")
    assert finetune(flags, "--model_name_or_path", tmp_path / "packed") == 2
    assert "weights of 8 bits are not trained" in capfd.readouterr().err
    assert finetune(flags, *words[:2], "--quantization_bit", "3") == 2
    assert "--quantization_bit 3: expected 4 or 8" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert open_checkpoint(tmp_path / "packed").config.quantization_bit == 8
