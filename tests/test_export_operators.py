"""Graphs with native operators: tokens of the dygraph model, a cache in place, what opening requires."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.auto.backend import open_backend
from paddle_glm.auto.engine import Engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.backends import paddle_inference
from paddle_glm.backends.generation_meta import META_FILE_NAME, GenerationMeta
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.kernels.library import kernel_library, operators_version
from paddle_glm.kv_cache.tensors import BLOCK
from paddle_glm.main import main
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.numpy_interop import to_numpy
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.kv_cache.test_memory import Collector

pytestmark = pytest.mark.skipif(
    kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"
)
PROMPTS = [[15, 16, 17, 18, 19], [10, 11], [300]]
GREEDY = GenerationParams(max_new_tokens=12, do_sample=False)
BEAM = GenerationParams(max_new_tokens=12, do_sample=False, num_beams=3, eos_token_ids=(2,))
FAMILIES = ("chatglm", "chatglm2", "chatglm3")
WEIGHTS = {"int8": (8,), "int4": (4, 16), "all-int4": (4, 32, True)}


@pytest.fixture(scope="module")
def models(tiny_checkpoint, tiny_rows, tmp_path_factory):
    """(family, weights) -> a quantised model and its folder; both families have tokens that prompts need."""
    texts = [text for row in tiny_rows for text in row.values()]
    folders = {"chatglm2": tiny_checkpoint}
    for family in ("chatglm", "chatglm3"):
        folders[family] = tmp_path_factory.mktemp("models") / family
        write_checkpoint(folders[family], texts, family, vocab_size=512, hidden_size=64, ffn_hidden_size=96)

    def make(family: str, weights: str):
        return AutoModel.from_pretrained(folders[family]).quantize(*WEIGHTS[weights]), folders[family]

    return make


def exported(model, folder: Path, target: Path, **options):
    return export_model(model, AutoTokenizer.from_pretrained(folder), target, **options)


def prompts_for(config) -> list[list[int]]:
    end = [token for token in (config.gmask_token_id, config.bos_token_id) if token is not None]
    return [[*prompt, *end] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def int4(models, tmp_path_factory):
    """A ChatGLM2 in int4, and the folder it was exported to. Do not write into it."""
    model, folder = models("chatglm2", "int4")
    exported(model, folder, target := tmp_path_factory.mktemp("operators") / "int4")
    return model, target


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_are_the_models(family, weights, models, tmp_path):
    model, folder = models(family, weights)
    assert exported(model, folder, tmp_path / "out").operators == operators_version()
    graph, dygraph = open_backend("paddle", tmp_path / "out"), DygraphBackend(model)
    prompts = prompts_for(model.config)
    for params in (GREEDY, BEAM):
        for batch in ([prompts[0]], prompts):
            assert generate_batch(graph, batch, params) == generate_batch(dygraph, batch, params)
    ids, mask = np.array([prompts[0], [0, *prompts[0][1:]]]), np.ones((2, len(prompts[0])), np.int64)
    mask[1, 0] = 0
    assert np.abs(graph.prefill(ids, mask) - dygraph.prefill(ids, mask)).max() < 1e-5


def test_a_prefix_is_the_beginning_of_the_buffers(models, tmp_path):
    model, folder = models("chatglm2", "int4")
    attach_prefix(model, 5, projection=False)
    exported(model, folder, tmp_path / "out")
    graph, dygraph = open_backend("paddle", tmp_path / "out"), DygraphBackend(model)
    for params in (GREEDY, BEAM):
        assert generate_batch(graph, PROMPTS, params) == generate_batch(dygraph, PROMPTS, params)


def test_export_leaves_the_model_as_it_was(models, tmp_path):
    model, folder = models("chatglm2", "all-int4")
    before = {name: to_numpy(tensor).copy() for name, tensor in model.named_parameters()}
    exported(model, folder, tmp_path / "out")
    after = {name: to_numpy(tensor) for name, tensor in model.named_parameters()}
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_a_portable_graph_says_the_same_without_the_kernels(int4, tmp_path, monkeypatch):
    model, target = int4
    exported(model, target, tmp_path / "portable", portable=True)
    meta, native = GenerationMeta.read(tmp_path / "portable"), GenerationMeta.read(target)
    assert meta.operators == 0 and len(meta.outputs) == 5 and len(native.outputs) == 1
    assert meta.cache_inputs == native.cache_inputs
    sizes = [(folder / "chatglm.pdiparams").stat().st_size for folder in (target, tmp_path / "portable")]
    assert sizes[0] == sizes[1]  # the same weights, in another order
    monkeypatch.setattr(paddle_inference, "operators_version", lambda: 0)
    portable = open_backend("paddle", tmp_path / "portable")
    assert generate_batch(portable, PROMPTS, BEAM) == generate_batch(DygraphBackend(model), PROMPTS, BEAM)


def test_float_and_onnx_graphs_are_portable(int4, tiny_checkpoint, tmp_path):
    model, target = int4
    assert exported(model, target, tmp_path / "onnx", format="onnx").operators == 0
    float_model = AutoModel.from_pretrained(tiny_checkpoint)
    assert exported(float_model, tiny_checkpoint, tmp_path / "float").operators == 0


def test_the_cache_stays_where_it_is_until_it_is_full(int4):
    model, target = int4
    graph, dygraph = open_backend("paddle", target), DygraphBackend(model)
    ids = np.arange(5, 5 + BLOCK - 4)[None] % 300
    for backend in (graph, dygraph):
        backend.prefill(ids, np.ones_like(ids))
    places = []
    for token in range(20, 27):
        step = np.array([token])
        assert np.abs(graph.decode(step) - dygraph.decode(step)).max() < 1e-5
        layer = graph._cache.layers[0]
        places.append((layer._key.data_ptr(), layer._value.data_ptr()))
    # The first token makes a block, four tokens fill it, the fifth needs another.
    assert all(place == places[0] for place in places[:4])
    assert all(place == places[4] for place in places[4:])
    assert places[3] != places[4]
    assert graph._cache.length == BLOCK + 3


def test_a_server_batches_requests(int4):
    """Rows join and leave while others go on."""
    model, target = int4
    prompts = [[5, 6, 7, 8, 9], [10, 11], [12] * 9, [300, 20], [7, 7, 7]]
    lengths = (12, 5, 20, 3, 9)
    scheduler = Scheduler(lambda: Engine(open_backend("paddle", target), None, GenerationParams()))
    listeners = [Collector() for _ in prompts]
    try:
        for prompt, length, listener in zip(prompts, lengths, listeners, strict=True):
            scheduler.submit(prompt, GREEDY.updated({"max_new_tokens": length}), listener)
        assert all(listener.ended.wait(60) for listener in listeners)
    finally:
        scheduler.close()
    dygraph = DygraphBackend(model)
    for prompt, length, listener in zip(prompts, lengths, listeners, strict=True):
        params = GREEDY.updated({"max_new_tokens": length})
        assert listener.error is None
        assert [listener.tokens] == generate_batch(dygraph, [prompt], params)


def test_another_version_or_device_is_refused(int4, tmp_path):
    path = shutil.copytree(int4[1], tmp_path / "copy") / META_FILE_NAME
    with pytest.raises(InputError, match="exported for CPUs: take --device cpu"):
        open_backend("paddle", path.parent, device="gpu")
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "operators": 99}), encoding="utf-8")
    with pytest.raises(InputError, match=rf"version 99 of .*this program has {operators_version()}: export"):
        open_backend("paddle", path.parent)


def test_without_the_kernels_the_command_refuses_in_a_line(int4, monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_GLM_KERNELS", "0")
    kernel_library.cache_clear()
    try:
        assert main(["infer", "--model_path", str(int4[1]), "--prompt", "x"]) == 2
    finally:
        monkeypatch.undo()
        kernel_library.cache_clear()
    [line] = capsys.readouterr().err.splitlines()
    assert "needs the native CPU kernels, which `paddle-glm kernels` builds" in line and "--portable" in line
    assert kernel_library() is not None
