"""The exported graph gives the dygraph model's tokens, and its folder is checked before it is used."""

import json
import shutil

import numpy as np
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends.generation_meta import META_FILE_NAME, GenerationMeta
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.generation import ChatSession, GenerationParams, generate_batch
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.dygraph import DygraphBackend
from tests.paths import reference

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [300]]
WAYS = {
    "greedy": {"do_sample": False},
    "penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "beam": {"do_sample": False, "num_beams": 3, "eos_token_ids": (2,)},
    "sampling": {"seed": 3},
}


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def pair(request, tiny_checkpoint, tmp_path_factory):
    """A model and the folder it was exported to."""
    model = AutoModel.from_pretrained(tiny_checkpoint, dtype=request.param)
    folder = tmp_path_factory.mktemp("export") / request.param
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), folder)
    return model, folder


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "whole"
    model = AutoModel.from_pretrained(tiny_checkpoint)
    export_model(model, AutoTokenizer.from_pretrained(tiny_checkpoint), folder)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_the_models(pair, way):
    model, folder = pair
    params = GenerationParams(max_new_tokens=16, **WAYS[way])
    graph, dygraph = open_backend("paddle", folder), DygraphBackend(model)
    for prompts in ([PROMPTS[0]], PROMPTS):
        assert generate_batch(graph, prompts, params) == generate_batch(dygraph, prompts, params)


def test_logits_are_the_models(pair):
    model, folder = pair
    graph, dygraph = open_backend("paddle", folder), DygraphBackend(model)
    ids, mask = np.array([[5, 6, 7], [0, 8, 9]]), np.array([[1, 1, 1], [0, 1, 1]])
    differences = [np.abs(graph.prefill(ids, mask) - dygraph.prefill(ids, mask)).max()]
    for token in range(20, 24):
        step = np.array([token, token + 5])
        differences.append(np.abs(graph.decode(step) - dygraph.decode(step)).max())
    assert max(differences) < 1e-5


@pytest.mark.parametrize(
    ("format", "backend"), [("paddle", "paddle"), ("onnx", "onnxruntime"), ("onnx", "openvino")]
)
@pytest.mark.parametrize(
    "name", ["chatglm_6b_tiny_seed0", "chatglm2_6b_tiny_seed0", "chatglm3_6b_tiny_seed0"]
)
def test_the_graph_decodes_as_the_original_does(name, format, backend, tiny_checkpoint, tmp_path):
    folder = reference(name)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    export_model(AutoModel.from_pretrained(folder / "hf"), tokenizer, tmp_path / "out", format=format)
    graph = open_backend(backend, tmp_path / "out")
    golden = np.load(folder / "decode_leftpad.npz")
    mask = golden["prompt_attention_mask"]
    if mask.ndim == 4:  # ChatGLM-6B's says who may attend to what
        mask = (golden["prompt_ids"] != graph.config.pad_token_id).astype("int64")
    logits = graph.prefill(golden["prompt_ids"], mask)
    for step in range(golden["generated"].shape[1] - golden["prompt_ids"].shape[1]):
        assert np.abs(logits - golden[f"step{step}_logits"][:, -1]).max() < 1e-5
        logits = graph.decode(golden[f"step{step}_next"])


def test_the_cache_outlives_the_step_that_made_it(exported):
    graph = open_backend("paddle", exported)
    ids = np.array([[5, 6, 7, 8, 9]])
    graph.prefill(ids, np.ones_like(ids))
    kept = graph._cache.tensors
    before = [tensor.numpy().copy() for tensor in kept]
    graph.prefill(ids + 20, np.ones_like(ids))
    assert all((tensor.numpy() == old).all() for tensor, old in zip(kept, before, strict=True))


def test_weights_are_stored_in_the_dtype_asked_for(pair):
    model, folder = pair
    count = sum(int(np.prod(parameter.shape)) for parameter in model.parameters())
    size = (folder / "chatglm.pdiparams").stat().st_size
    rotary = 2048 * 8 * 4  # a table of constants, float32
    assert size - rotary == pytest.approx(count * (4 if model.dtype == "float32" else 2), rel=0.05)


def test_meta_holds_all_that_a_reader_needs(exported, tiny_checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    meta = GenerationMeta.read(exported)
    assert (meta.family, meta.stored_dtype, meta.num_layers) == ("chatglm2", "float32", 2)
    names = [one.name for one in meta.inputs]
    assert names[:3] == ["input_ids", "position_ids", "attention_mask"]
    assert names[3:] == ["past_key_0", "past_value_0", "past_key_1", "past_value_1"]
    assert [one.shape for one in meta.cache_inputs] == [(-1, 2, -1, 16)] * 4
    assert meta.outputs[0].shape == (-1, meta.vocab_size)
    assert meta.chat_template() == CHATGLM2
    assert meta.special_tokens["sop"] == tokenizer.get_command("sop")
    assert meta.stop_token_ids == (tokenizer.eos_token_id,)
    assert (exported / meta.tokenizer_file).is_file()
    params = meta.params()
    assert (params.top_p, params.temperature, params.eos_token_ids) == (0.8, 0.8, meta.stop_token_ids)


def test_a_chat_from_the_exported_folder_alone(exported):
    session = ChatSession(open_backend("paddle", exported), AutoTokenizer.from_pretrained(exported))
    session.params = session.params.updated({"max_new_tokens": 6, "seed": 1})
    reply = session.answer([{"role": "user", "content": "类型#裤"}])
    assert reply.completion_tokens <= 6


@pytest.fixture
def damaged(exported, tmp_path):
    """A copy to damage."""
    return shutil.copytree(exported, tmp_path / "copy")


def test_a_missing_or_cut_file_is_named(damaged):
    path = damaged / "chatglm.pdiparams"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"chatglm\.pdiparams has \d+ bytes of"):
        open_backend("paddle", damaged)
    path.unlink()
    with pytest.raises(InputError, match=r"chatglm\.pdiparams is missing"):
        open_backend("paddle", damaged)
    (damaged / META_FILE_NAME).unlink()
    with pytest.raises(InputError, match="paddle-glm export"):
        open_backend("paddle", damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: {**values, "format_version": 99}, "format version 99, this program reads 2"),
        (lambda values: {**values, "extra": 1}, "extra"),
        (lambda values: [], "format version None"),
        (lambda values: {k: v for k, v in values.items() if k != "family"}, "family"),
    ],
)
def test_meta_of_another_version_is_refused(damaged, change, message):
    path = damaged / META_FILE_NAME
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_backend("paddle", damaged)


def test_meta_that_is_no_json_and_a_wrong_prefix(damaged):
    with pytest.raises(InputError, match="not 'other'"):
        open_backend("paddle", damaged, model_prefix="other")
    (damaged / META_FILE_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        open_backend("paddle", damaged)


def test_a_failed_export_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch):
    model, tokenizer = (
        AutoModel.from_pretrained(tiny_checkpoint),
        AutoTokenizer.from_pretrained(tiny_checkpoint),
    )

    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        export_model(model, tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_replaced_only_when_asked(exported, tiny_checkpoint):
    model, tokenizer = (
        AutoModel.from_pretrained(tiny_checkpoint),
        AutoTokenizer.from_pretrained(tiny_checkpoint),
    )
    with pytest.raises(InputError, match="overwrite"):
        export_model(model, tokenizer, exported)
    export_model(model, tokenizer, exported, overwrite=True)
    assert GenerationMeta.read(exported).prefix == "chatglm"
