"""A new family is one folder and one line: `tests/toy_family` does all that the released ones do."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.autograd import saved_tensors_hooks

from paddle_glm.auto.engine import open_engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.data.data_files import Example
from paddle_glm.data.datasets import Collator, SupervisedDataset
from paddle_glm.errors import InputError
from paddle_glm.export import export_model
from paddle_glm.generation import ChatSession, GenerationParams
from paddle_glm.models import registry
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.models.family import get_family
from paddle_glm.parallel import ProcessGroup
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import Row
from paddle_glm.tokenizers import Tokenizer
from paddle_glm.training.activation_memory import MicroBatchSpec, saved_activation_bytes, saved_head_bytes
from paddle_glm.training.memory_estimate import TrainingPlan, estimate_training_memory
from tests.reading import add_rows
from tests.toy_family.template import TEMPLATE

QUESTION = [{"role": "user", "content": "类型#裙"}]
GREEDY = GenerationParams(do_sample=False, max_new_tokens=12)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_PACKAGES", dict(registry._PACKAGES))
        registry.register_family("toy", "tests.toy_family")
        yield


@pytest.fixture(scope="module")
def folder(registered: None, tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "model"
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(path, texts, "toy", 512, hidden_size=64, ffn_hidden_size=96, max_sequence_length=256)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    return AutoModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def batch(tiny_rows: list[Row], tokenizer: Tokenizer) -> dict[str, paddle.Tensor]:
    """Four training samples, padded on the right."""
    rows = [
        Example(
            [{"role": "user", "content": row["content"]}, {"role": "assistant", "content": row["summary"]}],
            "a row",
        )
        for row in tiny_rows[:4]
    ]
    samples = SupervisedDataset(rows, TEMPLATE, tokenizer, 64, 64).samples
    return {name: paddle.to_tensor(rows) for name, rows in Collator(tokenizer.pad_token_id)(samples).items()}


def test_its_files_say_what_it_is(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    assert values["model_type"] == "toy" and values["toy_width"] == 96
    assert "padded_vocab_size" not in values and "inner_hidden_size" not in values
    config = ModelConfig.from_pretrained(folder)
    assert (config.family, config.num_key_value_heads, config.head_dim) == ("toy", 4, 16)
    assert ModelConfig.from_dict(config.to_hub_dict()) == config
    # A file from elsewhere, without our key, is recognised by its own.
    del values["paddle_glm_family"]
    assert ModelConfig.from_dict(values) == config
    with pytest.raises(InputError, match=r"toy_activation = 'swiglu'; only 'gelu' is supported"):
        ModelConfig.from_dict({**values, "toy_activation": "swiglu"})


def test_shards_split_and_merge(folder: Path, model: CausalLM, tmp_path: Path) -> None:
    reshard(folder, tmp_path / "two", 2)
    reshard(tmp_path / "two", tmp_path / "one")
    assert AutoTokenizer.from_pretrained(tmp_path / "one").family == "toy"
    merged, source = open_checkpoint(tmp_path / "one"), open_checkpoint(folder)
    assert sorted(merged.names()) == sorted(source.names())
    for name in source.names():
        np.testing.assert_array_equal(merged.read(name), source.read(name))
    model.save_pretrained(tmp_path / "saved")
    for name, array in AutoModel.from_pretrained(tmp_path / "saved").named_arrays():
        np.testing.assert_array_equal(array, source.read(name))
    with pytest.raises(InputError, match="PaddleNLP has no class for toy"):
        model.save_pretrained(tmp_path / "nlp", format="pdparams")


def test_its_attention_reads_rows_in_pages(model: CausalLM) -> None:
    """It updates the cache itself, without `layers.attention.attend`."""
    rows = [np.arange(5, 75)[None], np.arange(30, 37)[None]]
    alone, paged = [DygraphBackend(model) for _ in rows], DygraphBackend(model)
    paged.limit_cache(1 << 20)
    for backend, ids in zip(alone, rows, strict=True):
        backend.prefill(ids, np.ones_like(ids))
        if backend is alone[0]:
            paged.prefill(ids, np.ones_like(ids))
        else:
            add_rows(paged, ids, np.ones_like(ids))
    for token in range(60, 63):
        expected = np.concatenate([backend.decode(np.array([token])) for backend in alone])
        np.testing.assert_allclose(paged.decode(np.array([token] * 2)), expected, atol=1e-6)


def test_each_rank_starts_with_its_slice(folder: Path) -> None:
    config, whole = ModelConfig.from_pretrained(folder), open_checkpoint(folder)
    table = get_family("toy").parameters(config)
    second = AutoModel.from_config(config, group=ProcessGroup(rank=1, degree=2))
    for name, array in second.named_arrays():
        np.testing.assert_array_equal(array, table[name].sharding.split(whole.read(name), 1, 2))


def test_positions_are_its_own_everywhere(
    model: CausalLM, tokenizer: Tokenizer, batch: dict[str, paddle.Tensor]
) -> None:
    encoded = tokenizer("类型")
    assert encoded["position_ids"] == [2 * index for index in range(len(encoded["input_ids"]))]
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    expected = model.family.positions(model.config, ids, mask)
    np.testing.assert_array_equal(batch["position_ids"].numpy()[mask > 0], expected[mask > 0])
    given = model(batch["input_ids"], paddle.to_tensor(expected), batch["attention_mask"]).logits
    own = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    np.testing.assert_array_equal(own.numpy(), given.numpy())
    past = model(batch["input_ids"][:, :4], use_cache=True).past_key_values
    with pytest.raises(InputError, match="position_ids are needed behind cached tokens"):
        model(batch["input_ids"][:, 4:5], past_key_values=past)


@pytest.mark.usefixtures("plain_training")
def test_it_learns_within_the_estimated_memory(folder: Path, batch: dict[str, paddle.Tensor]) -> None:
    model = AutoModel.from_pretrained(folder)
    model.train()
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    own = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, paddle.Tensor] = {}

    def keep(tensor: paddle.Tensor) -> paddle.Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        first = model(**batch).loss
    saved = sum(tensor.size * tensor.element_size() for place, tensor in kept.items() if place not in own)
    rows, tokens = batch["input_ids"].shape
    step = MicroBatchSpec(model.config, rows, tokens, 1, 4, 4, True, None, False)
    # What blocks share (mask, rotary rows) and the labels are not in the formula.
    assert saved_activation_bytes(step) + saved_head_bytes(step) == pytest.approx(saved, rel=0.05)
    for _ in range(10):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert float(loss) < 0.9 * float(first)
    estimate = estimate_training_memory(TrainingPlan(model.config, batch_size=rows, seq_length=tokens))
    assert estimate.parameters == sum(parameter.size for parameter in model.parameters())
    assert estimate.activations > saved


def test_it_answers_with_its_own_prompt(folder: Path, model: CausalLM, tokenizer: Tokenizer) -> None:
    assert tokenizer.build_prompt("好") == "Q: 好\n"
    prompt = tokenizer.apply_chat_template(QUESTION, return_tensors="np")
    assert prompt["input_ids"][0, -1] == tokenizer.get_command("<answer>")
    engine = open_engine(folder)
    assert engine.params.top_p == 0.5
    answer = ChatSession(engine.backend, engine.tokenizer, GREEDY).answer(QUESTION)
    text, history = model.chat(tokenizer, QUESTION[0]["content"], do_sample=False, max_new_tokens=12)
    assert answer.messages[0]["content"] == text
    assert history == [(QUESTION[0]["content"], text)]
    batch = tokenizer(["类型", "颜色的裙"], padding=True, return_tensors="pd")
    alone = tokenizer("类型", return_tensors="pd")
    answers = [
        model.generate(**inputs, do_sample=False, max_new_tokens=6).numpy()[0, -6:]
        for inputs in (batch, alone)
    ]
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize(("format", "backend"), [("paddle", "paddle"), ("onnx", "onnxruntime")])
def test_its_graph_answers_as_the_model_does(
    model: CausalLM, tokenizer: Tokenizer, format: str, backend: str, tmp_path: Path
) -> None:
    meta = export_model(model, tokenizer, tmp_path / "out", format=format)
    assert meta.positions == {"rule": "even"} and meta.chat_template() == TEMPLATE
    engine = open_engine(tmp_path / "out", backend)
    found = ChatSession(engine.backend, engine.tokenizer, GREEDY).answer(QUESTION)
    text, _ = model.chat(tokenizer, QUESTION[0]["content"], do_sample=False, max_new_tokens=12)
    assert found.messages[0]["content"] == text
