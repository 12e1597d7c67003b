"""Graphs of quantised models hold integers and give the dygraph model's tokens, adapters included."""

import math

import numpy as np
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.main import main
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.lora import attach_lora, load_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [300]]
GREEDY = GenerationParams(max_new_tokens=12, do_sample=False)
WAYS = {"int8": (8,), "int8-groups": (8, 16), "int4": (4,), "int4-channels": (4, 0), "all": (4, 16, True)}


def assert_alike(graph, model):
    """The same tokens, and logits within rounding, over a batch with padding and several steps."""
    dygraph = DygraphBackend(model)
    for prompts in ([PROMPTS[0]], PROMPTS):
        assert generate_batch(graph, prompts, GREEDY) == generate_batch(dygraph, prompts, GREEDY)
    ids, mask = np.array([[5, 6, 7], [0, 8, 9]]), np.array([[1, 1, 1], [0, 1, 1]])
    differences = [np.abs(graph.prefill(ids, mask) - dygraph.prefill(ids, mask)).max()]
    for token in range(20, 24):
        step = np.array([token, token + 5])
        differences.append(np.abs(graph.decode(step) - dygraph.decode(step)).max())
    assert max(differences) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_the_models(tiny_checkpoint, tmp_path, way):
    model = AutoModel.from_pretrained(tiny_checkpoint).quantize(*WAYS[way])
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), tmp_path / "out")
    graph = open_backend("paddle", tmp_path / "out")
    assert graph.config.quantization_bit == WAYS[way][0]
    assert_alike(graph, model)
    stored = (tmp_path / "out" / "chatglm.pdiparams").stat().st_size
    wanted = sum(math.prod(p.shape) * p.numpy().dtype.itemsize for p in model.parameters())
    rotary = 2048 * 8 * 4  # a table of constants, float32
    assert stored - rotary == pytest.approx(wanted, rel=0.05)


def test_weights_in_several_blocks(tiny_checkpoint, tmp_path, monkeypatch):
    """As those of large models, in graphs and in dygraph."""
    model = AutoModel.from_pretrained(tiny_checkpoint).quantize(4, 16)
    before = generate_batch(DygraphBackend(model), PROMPTS, GREEDY)
    for name in ("_BLOCK_BYTES_CPU", "_BLOCK_BYTES_GRAPH"):
        monkeypatch.setattr(f"paddle_glm.parallel.dequant.{name}", 5 * 32)
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), tmp_path / "out")
    assert generate_batch(DygraphBackend(model), PROMPTS, GREEDY) == before
    assert_alike(open_backend("paddle", tmp_path / "out"), model)


def test_half_models_and_their_integers(tiny_checkpoint, tmp_path):
    model = AutoModel.from_pretrained(tiny_checkpoint, dtype="float16", quantization_bit=4)
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), tmp_path / "out")
    assert_alike(open_backend("paddle", tmp_path / "out"), model)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_adapters_stay_beside_the_integers(tiny_checkpoint, tmp_path, kind):
    """`export` computes LoRA's product in the graph, where it folds it into float weights."""
    model = AutoModel.from_pretrained(tiny_checkpoint, quantization_bit=4)
    if kind == "prefix":
        adapter, flag = attach_prefix(model, 3, projection=True, seed=1), "--ptuning_checkpoint"
    else:
        adapter, flag = attach_lora(model, LoraConfig(rank=4), seed=1), "--lora_path"
        random = np.random.default_rng(5)
        arrays = {name: random.normal(0, 0.2, spec.shape) for name, spec in adapter.specs.items()}
        adapter.load_arrays({adapter.file_names[name]: array for name, array in arrays.items()})
    (tmp_path / "adapter").mkdir()
    adapter.save(tmp_path / "adapter")
    words = ["--model_name_or_path", str(tiny_checkpoint), "--quantization_bit", "4"]
    words += [flag, str(tmp_path / "adapter"), "--output_path", str(tmp_path / "out")]
    assert main(["export", *words]) == 0
    assert_alike(open_backend("paddle", tmp_path / "out"), model)
    plain = AutoModel.from_pretrained(tiny_checkpoint, quantization_bit=4)
    assert generate_batch(DygraphBackend(plain), PROMPTS, GREEDY) != generate_batch(
        DygraphBackend(model), PROMPTS, GREEDY
    )
    if kind == "lora":
        load_lora(plain, tmp_path / "adapter")
        assert_alike(open_backend("paddle", tmp_path / "out"), plain)
