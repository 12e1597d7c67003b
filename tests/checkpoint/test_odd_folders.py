"""Folders whose tensors are of any name, shape and dtype: an InputError, or what the table says."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.lazy_tensor import as_lazy
from paddle_glm.checkpoint.pdparams_file import write_pdparams
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.checkpoint.safetensors_file import write_safetensors
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of

CONFIG = ModelConfig(
    num_layers=1, hidden_size=4, num_attention_heads=2, num_key_value_heads=2, head_dim=2,
    ffn_hidden_size=6, vocab_size=8, max_sequence_length=8,
)  # fmt: skip
HUB = list(family_of(CONFIG).parameters(CONFIG))
ATTENTION = "encoder.layers.0.self_attention"
ITS = [f"chatglm_v2.{name.removeprefix('transformer.')}" for name in HUB]
OLD = [
    f"chatglm_v2.{ATTENTION}.{part}.{kind}"
    for part in ("query", "key", "value")
    for kind in ("weight", "bias")
]
MLP = "encoder.layers.0.mlp.dense_h_to_4h.weight"
ODD = ["", "chatglm_v2.", "chatglm.", "x", "transformer.layers.0.attention.dense.weight", "词"]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_]
TENSOR = st.tuples(
    st.sampled_from(DTYPES), st.lists(st.sampled_from([0, 1, 2, 4, 6, 8, 12]), max_size=3).map(tuple)
)
TENSORS = st.one_of(
    st.dictionaries(st.sampled_from([*HUB, *ITS, *OLD, *ODD]), TENSOR, max_size=8),
    st.fixed_dictionaries(dict.fromkeys([*OLD, f"chatglm_v2.{MLP}"], TENSOR)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shards=st.lists(TENSORS, min_size=1, max_size=2), paddle=st.booleans(), whole=st.booleans())
def test_any_tensors(
    tmp_path_factory: pytest.TempPathFactory, shards: list[dict], paddle: bool, whole: bool
) -> None:
    folder = tmp_path_factory.mktemp("odd") / "model"
    folder.mkdir()
    CONFIG.save_pretrained(folder)
    for rank, shard in enumerate(shards):
        tensors = {name: as_lazy(np.ones(shape, dtype)) for name, (dtype, shape) in shard.items()}
        if whole:  # the rest as it should be
            missing = family_of(CONFIG).parameters(CONFIG).items()
            rest = {name: as_lazy(np.ones(spec.shape, np.float32)) for name, spec in missing}
            tensors = {**rest, **tensors}
        single = len(shards) == 1
        if paddle:
            write_pdparams(
                folder / ("model_state.pdparams" if single else f"model_state.tp{rank:02d}.pdparams"), tensors
            )
        else:
            name = "model.safetensors" if single else f"model-tp{rank:02d}-of-02.safetensors"
            write_safetensors(folder / name, tensors)
    try:
        checkpoint = open_checkpoint(folder)
        for name in checkpoint.names():
            checkpoint.shape(name), checkpoint.safetensors_dtype(name)
        checkpoint.validate()
    except InputError:
        return
    reshard(folder, folder.with_name("out"))
    assert len(checkpoint.parameter_specs) == len(HUB)


def test_a_tensor_that_the_first_shard_lacks(tmp_path: Path) -> None:
    CONFIG.save_pretrained(tmp_path)
    for rank in range(2):
        tensors = {name: as_lazy(np.ones(2, np.float32)) for name in HUB[rank:]}
        write_safetensors(tmp_path / f"model-tp0{rank}-of-02.safetensors", dict(reversed(tensors.items())))
    with pytest.raises(InputError, match=rf"1 missing|missing: {HUB[0]}"):
        open_checkpoint(tmp_path).validate()


def test_a_tensor_that_the_second_shard_has_alone(tmp_path: Path) -> None:
    CONFIG.save_pretrained(tmp_path)
    for rank in range(2):
        tensors = {name: as_lazy(np.ones((4, 4), np.float32)) for name in HUB[1 - rank :]}
        write_safetensors(tmp_path / f"model-tp0{rank}-of-02.safetensors", tensors)
    with pytest.raises(InputError, match=f"1 missing: {HUB[0]}"):
        open_checkpoint(tmp_path).validate()
