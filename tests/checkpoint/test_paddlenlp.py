"""PaddleNLP's checkpoints in and out, held to its own classes, on checkpoints that they wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.lazy_tensor import SAFETENSORS_FLOAT_NAMES, as_lazy
from paddle_glm.checkpoint.pdparams_file import write_pdparams
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError

nlp = pytest.importorskip(
    "tests.checkpoint.paddlenlp_models",
    reason='paddlenlp is missing: pip install -c constraints.txt -e ".[train]"',
)
import paddle  # noqa: E402

nlp.silence_paddlenlp()
# THUDM's ChatGLM-6B has 28 as the number of layers in its residual scale, whatever the configuration says.
ALPHA = {"num_hidden_layers": 2}
# Frequencies of heads that are this wide are not all numbers of float16.
ROTARY = {"hidden_size": 64, "num_attention_heads": 4}
FAMILIES = ("chatglm2", "chatglm")
# The last tokens but two are [gMASK] <sop> of the ChatGLM-6B here.
IDS = np.array([[5, 9, 33, 59, 60, 8, 21], [7, 1, 3, 59, 60, 4, 2]])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    return nlp.make(family)


@pytest.fixture(scope="module")
def folders(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as every kind of folder that PaddleNLP writes."""
    made = {}
    for kind, write in nlp.WRITERS.items():
        made[kind] = tmp_path_factory.mktemp("nlp") / kind.replace(" ", "_")
        write(model, made[kind])
    return made


def its_logits(model: Any, ids: np.ndarray = IDS) -> np.ndarray:
    """What PaddleNLP's model computes, float32 [batch, tokens, vocab]; three tokens are the answer."""
    (batch, tokens), context = ids.shape, ids.shape[1] - 3
    mask, more = paddle.ones(ids.shape, "int64"), {}
    if model.config.model_type == "chatglm":
        # The tokens before <sop> see each other, all others what is before them.
        seen = np.tril(np.ones((tokens, tokens), np.int64))
        seen[:, :context] = 1
        mask = paddle.to_tensor(np.broadcast_to(seen, (batch, 1, tokens, tokens)))
        rows = [[*range(context), *[context - 1] * 3], [*[0] * context, 1, 2, 3]]
        more = {"position_ids": paddle.to_tensor(np.array([rows] * batch))}
    with paddle.no_grad():
        return model(paddle.to_tensor(ids), attention_mask=mask, **more)[0].numpy()


def our_logits(folder: Path, ids: np.ndarray = IDS) -> np.ndarray:
    with paddle.no_grad():
        return AutoModel.from_pretrained(folder)(paddle.to_tensor(ids)).logits.numpy()


def assert_its_state(state: dict[str, np.ndarray], model: Any) -> None:
    expected = {
        name: tensor.numpy() for name, tensor in model.state_dict().items() if "decoder_weight" not in name
    }
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(state[name], tensor, err_msg=name)


@pytest.mark.parametrize("kind", list(nlp.WRITERS))
def test_every_kind_of_folder_gives_its_logits(folders: dict[str, Path], model: Any, kind: str) -> None:
    checkpoint = open_checkpoint(folders[kind])
    checkpoint.validate()
    assert checkpoint.tensor_parallel_degree == {"two shards": 2, "four shards": 4}.get(kind, 1)
    np.testing.assert_allclose(our_logits(folders[kind]), its_logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("kind", ["pdparams", "two shards", "four shards"])
def test_a_rank_reads_its_slice_of_any_folder(folders: dict[str, Path], kind: str, degree: int) -> None:
    whole, opened = open_checkpoint(folders["safetensors"]), open_checkpoint(folders[kind])
    for name, spec in whole.parameter_specs.items():
        for rank in range(degree):
            expected = spec.sharding.split(whole.read(name), rank, degree)
            np.testing.assert_array_equal(opened.read(name, rank, degree), expected)
            chunks = [chunk.copy().reshape(-1) for chunk in opened.read_lazy(name, rank, degree).chunks()]
            np.testing.assert_array_equal(np.concatenate(chunks), np.ravel(expected))


@pytest.mark.parametrize("kind", ["pdparams", "four shards", "numbered safetensors"])
def test_to_the_hub_and_back(tmp_path: Path, folders: dict[str, Path], model: Any, kind: str) -> None:
    reshard(folders[kind], tmp_path / "hub", file_format="bin")
    hub = open_checkpoint(tmp_path / "hub")
    assert not hub.is_paddlenlp
    reshard(tmp_path / "hub", tmp_path / "back", file_format="pdparams", max_shard_size="100KB")
    loaded = type(model).from_pretrained(str(tmp_path / "back"))
    loaded.eval()
    assert_its_state({n: t.numpy() for n, t in loaded.state_dict().items() if "decoder" not in n}, model)
    np.testing.assert_allclose(its_logits(loaded), its_logits(model), atol=1e-6)
    assert hub.config == open_checkpoint(tmp_path / "back").config


def test_a_model_is_saved_for_it(tmp_path: Path, folders: dict[str, Path], model: Any) -> None:
    AutoModel.from_pretrained(folders["safetensors"]).save_pretrained(tmp_path / "saved", format="pdparams")
    loaded = type(model).from_pretrained(str(tmp_path / "saved"))
    loaded.eval()
    np.testing.assert_array_equal(its_logits(loaded), its_logits(model))


@pytest.mark.parametrize("degree", [2, 4])
def test_our_shards_are_its_shards(
    tmp_path: Path, folders: dict[str, Path], model: Any, family: str, degree: int
) -> None:
    reshard(folders["pdparams"], tmp_path / "shards", degree, file_format="pdparams")
    cut = folders[{2: "two shards", 4: "four shards"}[degree]]
    for rank in range(degree):
        name = f"model_state.tp{rank:02d}.pdparams"
        ours, its = paddle.load(str(tmp_path / "shards" / name)), paddle.load(str(cut / name))
        assert ours.keys() == its.keys()
        for key in its:
            np.testing.assert_array_equal(ours[key].numpy(), its[key].numpy(), err_msg=key)
    assert_its_state(nlp.merge_shards(family, tmp_path / "shards", degree), model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_both_ways(tmp_path: Path, family: str, dtype: str) -> None:
    half = nlp.make(family)
    half.to(dtype=dtype)
    for kind in ("pdparams", "safetensors"):
        nlp.WRITERS[kind](half, tmp_path / kind)
        opened = open_checkpoint(tmp_path / kind)
        assert opened.config.dtype == dtype
        assert {opened.safetensors_dtype(name) for name in opened.parameter_specs} == {
            SAFETENSORS_FLOAT_NAMES[dtype]
        }
    reshard(tmp_path / "safetensors", tmp_path / "ours", file_format="pdparams")
    # Its own loading in half precision needs kernels that a CPU has not.
    loaded = paddle.load(str(tmp_path / "ours" / "model_state.pdparams"))
    for name, tensor in loaded.items():
        expected = half.state_dict()[name]
        assert tensor.dtype == expected.dtype
        np.testing.assert_array_equal(tensor.astype("float32"), expected.astype("float32"))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == dtype


def test_switches_of_another_computation_are_refused() -> None:
    config = dict(num_hidden_layers=2, model_type="chatglm_v2", use_long_sequence_strategies=True)
    with pytest.raises(InputError, match="use_long_sequence_strategies = True; only False is supported"):
        ModelConfig.from_dict(config)


def test_what_it_cannot_load_is_not_written(tmp_path: Path, folders: dict[str, Path], family: str) -> None:
    what = {"chatglm2": "num_key_value_heads is 4", "chatglm": "num_attention_heads is 12"}[family]
    with pytest.raises(InputError, match=f"PaddleNLP cannot load 8 shards of this model: .*{what}"):
        reshard(folders["pdparams"], tmp_path / "eight", 8, file_format="pdparams")
    assert not (tmp_path / "eight").exists()


@pytest.mark.parametrize(("changes", "difference"), [(ALPHA, 1e-2), (ROTARY, 1e-5)])
def test_where_its_chatglm_6b_differs(tmp_path: Path, changes: dict[str, int], difference: float) -> None:
    """It scales the residual by the number of layers, and does not round the rotary frequencies."""
    model = nlp.make("chatglm", **changes)
    model.save_pretrained(str(tmp_path))
    ids = np.array([[*range(50), 59, 60, 8, 21]])
    assert np.abs(our_logits(tmp_path, ids) - its_logits(model, ids)).max() > difference


def split_and_interleaved(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of PaddleNLP's chatglm-legacy-checkpoints-convert.py."""
    old = {}
    for name, tensor in state.items():
        if ".query_key_value." in name:
            pieces = np.split(tensor, [32, 48], axis=-1)
            for part, piece in zip(("query", "key", "value"), pieces, strict=True):
                old[name.replace("query_key_value", part)] = piece
        elif ".dense_h_to_4h." in name:
            old[name] = tensor.reshape(32, 2, 48).transpose(0, 2, 1).reshape(32, 96)
        else:
            old[name] = tensor
    return old


def write(path: Path, state: dict[str, np.ndarray]) -> None:
    write_pdparams(path, {name: as_lazy(tensor) for name, tensor in state.items()})


@pytest.mark.parametrize("rename", [lambda name: name, lambda name: name.removeprefix("chatglm_v2.")])
def test_old_checkpoints_with_split_and_interleaved_weights(
    tmp_path: Path, rename: Callable[[str], str]
) -> None:
    model = nlp.make("chatglm2")
    state = {rename(name): tensor.numpy() for name, tensor in model.state_dict().items()}
    model.config.save_pretrained(str(tmp_path))
    write(tmp_path / "model_state.pdparams", split_and_interleaved(state))
    open_checkpoint(tmp_path).validate()
    np.testing.assert_allclose(our_logits(tmp_path), its_logits(model), atol=1e-5, rtol=0)
    reshard(tmp_path, tmp_path / "new")
    np.testing.assert_array_equal(our_logits(tmp_path / "new"), our_logits(tmp_path))
    reshard(tmp_path, tmp_path / "four", 4)
    np.testing.assert_array_equal(our_logits_of_shards(tmp_path / "four"), our_logits(tmp_path))
    broken = split_and_interleaved(state)
    del broken[rename("chatglm_v2.encoder.layers.0.self_attention.key.bias")]
    write(tmp_path / "model_state.pdparams", broken)
    with pytest.raises(InputError, match=r"layers.0.self_attention.query.bias has no matching key"):
        open_checkpoint(tmp_path)


def our_logits_of_shards(folder: Path) -> np.ndarray:
    reshard(folder, folder.with_name("merged"))
    return our_logits(folder.with_name("merged"))


def test_a_shard_that_is_missing(tmp_path: Path, folders: dict[str, Path]) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for path in folders["four shards"].iterdir():
        (shards / path.name).write_bytes(path.read_bytes())
    (shards / "model_state.tp03.pdparams").unlink()
    with pytest.raises(InputError, match=r"has 3 shards, but .*degree 3 cannot split .*: are some missing"):
        open_checkpoint(shards).validate()
    (shards / "model_state.tp01.pdparams").unlink()
    with pytest.raises(InputError, match=r"lacks the shard of rank 1, model_state\.tp01\.pdparams"):
        open_checkpoint(shards)
