"""The estimate of memory: exact where tables say it, near what is measured where a formula does."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.main import main
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.training.checkpointing import optimizer_tensors
from paddle_glm.training.memory_estimate import TrainingPlan, estimate_training_memory, resolve_config
from tests.paths import ROOT
from tests.training.finetune_helpers import write_rows
from tests.training.test_activations import FAMILY_SIZES, make

GIB = 2**30


def size(tensors) -> int:
    return sum(tensor.size * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("method", ["full", "lora", "prefix"])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_weights_gradients_and_optimizer_are_exact(family, method):
    model, lora, trained = make(family, method)
    found = estimate_training_memory(TrainingPlan(model.config, lora=lora, prefix_tuning=method == "prefix"))
    buffers = [buffer for name, buffer in model.named_buffers() if name == "rotary_table"]
    assert found.weights == size([*model.parameters(), *buffers])
    assert found.gradients == size(trained.values())
    assert found.trainable == sum(parameter.size for parameter in trained.values())
    assert found.parameters == sum(parameter.size for parameter in model.parameters())
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters())
    assert found.optimizer == size(tensor for _, tensor in optimizer_tensors(optimizer, model))


@pytest.mark.parametrize("degree", [2, 4])
def test_stage_3_holds_two_blocks_beside_its_share(degree):
    def weights(layers, stage):
        plan = TrainingPlan(replace(config, num_layers=layers), data_degree=degree, stage=stage)
        return estimate_training_memory(plan).weights

    config = make("chatglm2", "full")[0].config
    block = weights(6, 2) - weights(5, 2)
    assert weights(6, 2) - weights(6, 3) == pytest.approx(4 * block * (degree - 1) / degree, abs=2)
    assert weights(2, 3) == pytest.approx(weights(2, 2), abs=2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "prefix"])
def test_half_weights_and_their_masters(method, dtype):
    """Master weights are float32, and made for half weights alone: a prefix is float32 itself."""
    config = make("chatglm2", "full")[0].config
    model = AutoModel.from_config(config, dtype=dtype)
    if method == "prefix":
        attach_prefix(model, 6, projection=True).freeze_base_model()
    found = estimate_training_memory(
        TrainingPlan(model.config, prefix_tuning=method == "prefix", dtype=dtype, half=True)
    )
    assert found.weights == size([*model.parameters(), model.rotary_table])
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters(), multi_precision=True)
    state = dict(optimizer_tensors(optimizer, model))
    assert found.optimizer == size(state.values())
    masters = [tensor for name, tensor in state.items() if name.endswith("/master")]
    assert all(tensor.dtype == paddle.float32 for tensor in masters)
    trained = [name for name, parameter in model.named_parameters() if not parameter.stop_gradient]
    assert len(masters) == (len(trained) if method == "full" else 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base(bits):
    model, _, _ = make("chatglm2", "full")
    model.quantize(bits, group_size=32)
    lora = LoraConfig(rank=2)
    attach_lora(model, lora).freeze_base_model()
    found = estimate_training_memory(TrainingPlan(model.config, lora=lora))
    assert found.weights == size([*model.parameters(), model.rotary_table])


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_tensor_parallelism_cuts_what_it_cuts(family, degree):
    """Four processes share ChatGLM2's two key/value groups: slices are those that loading makes."""
    from paddle_glm.parallel import ProcessGroup

    config = make(family, "full")[0].config
    model = AutoModel.from_config(config, group=ProcessGroup(0, degree))
    found = estimate_training_memory(TrainingPlan(config, tensor_degree=degree))
    assert found.weights == size([*model.parameters(), model.rotary_table])
    assert found.trainable == estimate_training_memory(TrainingPlan(config)).trainable


def test_stages_share_out():
    plan = TrainingPlan(
        resolve_config("chatglm2-6b"), dtype="float16", half=True, seq_length=64, data_degree=4
    )
    whole, first, second = (estimate_training_memory(replace(plan, stage=stage)) for stage in (0, 1, 2))
    assert first.optimizer == pytest.approx(whole.optimizer / 4, rel=0.01)
    assert first.gradients == whole.gradients
    assert second.gradients == pytest.approx(whole.gradients / 4, rel=0.01)
    assert first.weights == whole.weights and first.activations == second.activations


def test_recomputing_and_half_precision_need_less():
    plan = TrainingPlan(resolve_config("chatglm-6b"), batch_size=4, seq_length=193)
    half = replace(plan, dtype="float16", half=True)
    assert (
        estimate_training_memory(replace(plan, recompute=True)).activations
        < estimate_training_memory(plan).activations / 3
    )
    assert 0.5 < estimate_training_memory(half).activations / estimate_training_memory(plan).activations < 0.8
    mixed = replace(plan, half=True)  # O1: float32 weights, and half copies of them that are kept
    assert estimate_training_memory(half).activations < estimate_training_memory(mixed).activations - 10 * GIB


RUNS = {
    "full": "--gradient_accumulation_steps 2",
    "full, recomputed": "--gradient_accumulation_steps 2 --recompute True",
    "lora": "--lora True --lora_rank 4",
    "lora, recomputed": "--lora True --lora_dropout 0.1 --recompute True",
    "prefix": "--pre_seq_len 16",
    "prefix, recomputed": "--pre_seq_len 16 --recompute True",
}


@pytest.mark.integration
def test_within_ten_percent_of_what_is_measured(tiny_rows, tmp_path, capsys):
    """Every run's peak in a process of its own, after two optimizer steps."""
    texts = [text for row in tiny_rows for text in row.values()]
    model = tmp_path / "model"
    write_checkpoint(model, texts, vocab_size=512, num_layers=8, hidden_size=128, ffn_hidden_size=256)
    long = [{key: text * 6 for key, text in row.items()} for row in tiny_rows[:20]]  # cut to the same length
    rows = write_rows(tmp_path / "rows", long)
    flags = f"""--do_train --max_steps 3 --src_length 64 --tgt_length 64 --per_device_train_batch_size 4
        --save_strategy no --report_to none --disable_tqdm True --model_name_or_path {model}"""
    lines = [
        f"{flags} {own} --task_name_or_path {rows} --output_dir {tmp_path / str(index)}".replace("\n", " ")
        for index, own in enumerate(RUNS.values())
    ]
    worker = [sys.executable, "-m", "tests.training.check_memory"]
    plain = {**os.environ, "PADDLE_GLM_KERNELS": "0"}  # what the formula counts
    done = subprocess.run(
        worker, input="\n".join(lines), cwd=ROOT, env=plain, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    measured = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    capsys.readouterr()
    for name, line, peak in zip(RUNS, lines, measured, strict=True):
        assert main(["estimate-memory", "--json", *line.split()]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["total"] == pytest.approx(peak, rel=0.1), (name, found, peak)
        assert found["activations"] > 0.3 * peak, name  # or nothing would be tested


def estimated(capsys, *words: str) -> str:
    assert main(["estimate-memory", *words]) == 0
    return capsys.readouterr().out


def test_the_command_reads_recipes(capsys):
    text = estimated(capsys, "--recipe", str(ROOT / "configs" / "chatglm2" / "lora.yaml"))
    assert "chatglm2-6b, LoRA: weights in float16" in text and "14,823,424 of 6,258,407,424" in text
    other = ["--recipe", str(ROOT / "configs" / "chatglm2" / "sft.yaml"), "--model", "chatglm3-6b"]
    text = estimated(capsys, *other, "--processes", "8", "--sharding", "stage2")
    assert "chatglm3-6b, all weights" in text and "4 (tensor) x 2 (data) processes, sharding stage 2" in text
    prefix = ["--recipe", str(ROOT / "configs" / "chatglm" / "prefix.yaml"), "--quantization_bit", "4"]
    assert "weights in 4 bits" in estimated(capsys, *prefix)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "gpt2"], "gpt2: expected a model folder with config.json, or chatglm-6b, chatglm2-6b"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--model", "chatglm2-6b", "--lora_rnak", "8"], "did you mean 'lora_rank'"),
        (["--model", "chatglm2-6b", "--processes", "6", "--tensor_parallel_degree", "4"], "but 6 run"),
        (["--model", "chatglm2-6b", "--quantization_bit", "4"], "quantised weights are not trained"),
        (["--model", "chatglm2-6b", "--quantization_bit", "5"], "expected 4 or 8"),
        (
            ["--model", "chatglm2-6b", "--lora", "True", "--lora_target_modules", "wq"],
            "linear layers are dense",
        ),
        (["--model", "chatglm2-6b", "--lora_path", "x"], "--lora_path: say what is trained by"),
        (["--model", "chatglm2-6b", "--sharding", "stage4"], "expected stage1, stage2 or stage3"),
        (["--model", "chatglm2-6b", "--per_device_train_batch_size", "0"], "expected at least 1"),
        (["--model", "chatglm2-6b", "--tensor_parallel_degree", "3"], "cannot split"),
        ([], "model_name_or_path"),
    ],
)
def test_what_cannot_be_estimated_is_an_error(words, message, capsys):
    assert main(["estimate-memory", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_page_shows_what_the_command_says(capsys):
    page = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `chatglm")]
    assert len(lines) == 12
    for recipe, processes, trained, *sizes in lines:
        file, _, flags = recipe.replace("`", "").partition(", ")
        words = ["--json", "--recipe", str(ROOT / "configs" / file), *flags.split()]
        found = json.loads(estimated(capsys, *words))
        assert f"{found['trainable']:,}" == trained, recipe
        parts = [found[name] for name in ("weights", "gradients", "optimizer", "activations", "total")]
        assert [float(size) for size in sizes] == pytest.approx([part / GIB for part in parts], abs=0.006)
        assert (
            f"tensor_parallel_degree: {processes}" in (ROOT / "configs" / file).read_text()
            or processes == "1"
        )
