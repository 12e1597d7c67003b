"""ChatGLM2 without `multi_query_attention`: its fused projection is laid out head by head, in every link."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.models.base import CausalLM
from paddle_glm.peft.lora import attach_lora, load_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.merge import merge_lora
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.quantization.calibration import gptq_quantize_folder
from tests.models import numpy_chatglm2
from tests.paths import reference
from tests.quantized import dequantized

IDS = np.array([5, 9, 333, 60, 8, 21, 7])
FUSED = "transformer.encoder.layers.0.self_attention.query_key_value.weight"


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its tokenizer: weights are large enough for attention to choose, biases are not 0."""
    path = tmp_path_factory.mktemp("multi_head") / "model"
    config = ModelConfig.from_pretrained(tiny_checkpoint)
    model = AutoModel.from_config(replace(config, multi_query_attention=False, num_key_value_heads=4))
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.set_value(generator.normal(0, 0.1, parameter.shape).astype("float32"))
    model.save_pretrained(path)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(tiny_checkpoint / name, path)
    return path


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.parameter_specs}


def expected(weights: dict[str, np.ndarray], folder: Path, prefix: np.ndarray | None = None) -> np.ndarray:
    return numpy_chatglm2.logits(weights, json.loads((folder / "config.json").read_text()), IDS, prefix)


def computed(model: CausalLM) -> np.ndarray:
    with paddle.no_grad():
        return model(paddle.to_tensor(IDS[None])).logits[0].numpy()


def test_the_restatement_computes_what_the_original_did() -> None:
    """Where keys are shared the original's numbers are known."""
    source = reference("chatglm2_6b_tiny_seed0")
    arrays = np.load(source / "full_single.npz")
    config = json.loads((source / "hf_safetensors" / "config.json").read_text())
    found = numpy_chatglm2.logits(weights_of(source / "hf_safetensors"), config, arrays["input_ids"][0])
    assert np.abs(found - arrays["logits"][0]).max() < 1e-5


def test_logits_and_a_decode_step(folder: Path) -> None:
    logits = expected(weights_of(folder), folder)
    model = AutoModel.from_pretrained(folder)
    assert np.abs(computed(model) - logits).max() < 1e-5
    with paddle.no_grad():
        before = model(paddle.to_tensor(IDS[None, :-1]), use_cache=True)
        last = model(paddle.to_tensor(IDS[None, -1:]), past_key_values=before.past_key_values)
    assert np.abs(last.logits[0, 0].numpy() - logits[-1]).max() < 1e-5
    # Read as blocks of queries, keys and values it is another model.
    blocks = AutoModel.from_config(replace(model.config, multi_query_attention=True))
    blocks.load_weights(open_checkpoint(folder))
    assert np.abs(computed(blocks) - logits).max() > 0.1


def test_the_switch_is_kept_and_a_file_without_it_means_the_same(folder: Path) -> None:
    config = ModelConfig.from_pretrained(folder)
    assert not config.multi_query_attention and config.num_key_value_heads == 4
    values = json.loads((folder / "config.json").read_text())
    assert values["multi_query_attention"] is False and values["multi_query_group_num"] == 4
    # The original's class takes false where a file says nothing.
    bare = {key: value for key, value in values.items() if not key.startswith("multi_query")}
    assert ModelConfig.from_dict(bare) == config
    with pytest.raises(InputError, match=r"each of 4 heads has its own keys.*cannot be 2"):
        replace(config, num_key_value_heads=2)


@pytest.mark.parametrize("degree", [2, 4])
def test_shards_hold_whole_heads_and_merge_again(folder: Path, degree: int, tmp_path: Path) -> None:
    reshard(folder, tmp_path / "shards", degree)
    whole, shards = open_checkpoint(folder), open_checkpoint(tmp_path / "shards")
    per_head = whole.read(FUSED).reshape(4, 3 * 16, 64)
    for rank in range(degree):
        own = shards.read(FUSED, rank, degree).reshape(-1, 3 * 16, 64)
        np.testing.assert_array_equal(own, np.split(per_head, degree)[rank])
    reshard(tmp_path / "shards", tmp_path / "merged", 1)
    for name, array in weights_of(tmp_path / "merged").items():
        np.testing.assert_array_equal(array, whole.read(name))
    assert ModelConfig.from_pretrained(tmp_path / "merged") == ModelConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    ("bits", "gptq", "degree"), [(8, False, 1), (4, False, 2), (4, True, 1)], ids=["int8", "int4", "gptq"]
)
def test_quantised_rows_stay_in_their_places(
    folder: Path, bits: int, gptq: bool, degree: int, tmp_path: Path
) -> None:
    """Integers, cut and merged too, give the logits of the float weights that they stand for."""
    if gptq:
        shape = (1, len(IDS))
        batch = {"input_ids": IDS[None], "attention_mask": np.ones(shape, np.int64)}
        batches = [{**batch, "position_ids": np.arange(len(IDS))[None]}]
        gptq_quantize_folder(folder, tmp_path / "int", batches, bits, 16)
    else:
        reshard(folder, tmp_path / "int", degree, quantize=(bits, 16, True))
    quantised = AutoModel.from_pretrained(tmp_path / "int")
    meant = expected(dict(dequantized(quantised).named_arrays()), folder)
    assert np.abs(computed(quantised) - meant).max() < 1e-5


def test_an_adapter_stands_beside_the_rows_that_it_was_trained_with(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    adapter = attach_lora(model, LoraConfig(rank=2, alpha=4, target_modules=("query_key_value",)))
    generator = np.random.default_rng(1)
    for _, parameter in adapter.parameters():
        parameter.set_value(generator.normal(0, 0.1, parameter.shape).astype("float32"))
    (tmp_path / "adapter").mkdir()
    adapter.save(tmp_path / "adapter")
    beside = AutoModel.from_pretrained(folder)
    load_lora(beside, tmp_path / "adapter")
    merge_lora(folder, tmp_path / "adapter", tmp_path / "merged")
    weights = weights_of(tmp_path / "merged")
    assert np.abs(weights[FUSED] - weights_of(folder)[FUSED]).max() > 0.01
    logits = expected(weights, folder)
    for one in (model, beside, AutoModel.from_pretrained(tmp_path / "merged")):
        assert np.abs(computed(one) - logits).max() < 1e-5


def test_a_prefix_has_a_key_for_each_head(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    adapter = attach_prefix(model, length=3, projection=False)
    model.eval()
    [(_, embedding)] = adapter.parameters()
    # What get_prompt of the original makes of the embedding: [length, 2 layers, heads, kv_channels].
    prefix = embedding.numpy().reshape(3, 2, 2, 4, 16).transpose(1, 2, 0, 3, 4)
    assert np.abs(computed(model) - expected(weights_of(folder), folder, prefix)).max() < 1e-5


@pytest.mark.parametrize(("format", "backend"), [("paddle", "paddle"), ("onnx", "onnxruntime")])
def test_the_exported_graph_computes_it(folder: Path, format: str, backend: str, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    export_model(model, AutoTokenizer.from_pretrained(folder), tmp_path / "out", format=format)
    graph = open_backend(backend, tmp_path / "out")
    logits = expected(weights_of(folder), folder)
    first = graph.prefill(IDS[None, :-1], np.ones((1, len(IDS) - 1), np.int64))
    assert np.abs(first[0] - logits[-2]).max() < 1e-5
    assert np.abs(graph.decode(IDS[-1:])[0] - logits[-1]).max() < 1e-5


def test_paddlenlp_has_no_such_layout(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"multi_query_attention = False: PaddleNLP's classes do not read"):
        reshard(folder, tmp_path / "nlp", 1, file_format="pdparams")
    assert not (tmp_path / "nlp").exists()
    values = {"model_type": "chatglm_v2", "num_hidden_layers": 2, "multi_query_attention": False}
    with pytest.raises(InputError, match="multi_query_attention = False"):
        ModelConfig.from_dict(values)
