"""Samples, packing and batches: nothing is lost, nothing leaks from one sample into another."""

import json
import logging
from itertools import chain

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm import AutoModel
from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.data import datasets
from paddle_glm.data.data_files import Example, load_examples
from paddle_glm.data.datasets import (
    IGNORE_INDEX,
    Collator,
    GenerationDataset,
    PackedDataset,
    SupervisedDataset,
    max_sample_length,
    pack_samples,
)
from paddle_glm.errors import InputError
from paddle_glm.layers.attention_mask import boolean_mask
from paddle_glm.models.chatglm.tokenizer import ChatGLMTokenizer
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.models.chatglm3.template import CHATGLM3
from paddle_glm.models.chatglm3.tokenizer import ChatGLM3Tokenizer
from paddle_glm.tiny.checkpoint import write_checkpoint
from tests.paths import data, reference
from tests.tiny_sentencepiece import write_tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return ChatGLM2Tokenizer(write_tiny_model(tmp_path_factory.mktemp("tiny") / "tokenizer.model"))


def example(question, answer=None, origin="rows.json:1"):
    turns = [{"role": "user", "content": question}]
    return Example((*turns, {"role": "assistant", "content": answer}) if answer else tuple(turns), origin)


EXAMPLES = [
    example("类型#裤", "宽松的阔腿裤"),
    example("你好", "世界！"),
    example("类型#裤*版型#宽松*风格#性感", "明星时尚达人的心头爱。"),
    example("Hello", "world"),
]


@pytest.fixture(scope="module")
def dataset(tokenizer):
    return SupervisedDataset(EXAMPLES, CHATGLM2, tokenizer, 64, 64)


@pytest.mark.parametrize(
    ("name", "kind", "spare"),
    [
        ("chatglm-6b/ice_text.model", ChatGLMTokenizer, 0),
        ("chatglm2-6b/tokenizer.model", ChatGLM2Tokenizer, 1),
    ],
)
@pytest.mark.parametrize("case", [0, 1])
def test_fifty_rows_as_the_original_preprocesses_them(name, kind, spare, case):
    golden = json.loads(reference("tokenizers/ptuning_preprocess_dev50.json").read_text(encoding="utf-8"))
    expected = golden[name.split("/")[0].replace("-", "_")][case]
    source, target = expected["max_source_length"], expected["max_target_length"]
    tokenizer = kind(data(f"tokenizers/{name}"))
    rows = load_examples(data("AdvertiseGen/dev.json"), limit=50)
    dataset = SupervisedDataset(rows, tokenizer.template, tokenizer, source, target)
    batch = Collator(tokenizer.pad_token_id, pad_to_multiple_of=source + target + spare)(dataset)
    np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(batch["labels"], expected["labels"])


def test_samples_and_lengths(dataset):
    assert len(dataset) == len(EXAMPLES)
    assert dataset.lengths == [len(dataset[index]["labels"]) for index in range(len(dataset))]
    assert all(
        sample["labels"][0] == IGNORE_INDEX and (sample["labels"] != IGNORE_INDEX).any() for sample in dataset
    )


def test_rows_without_room_for_an_answer(tmp_path, tokenizer, caplog):
    three = ChatGLM3Tokenizer(tokenizer.model_file)
    rows = [example("你好" * 100, "世界"), example("你好", "世界")]
    with caplog.at_level(logging.WARNING):
        assert len(SupervisedDataset(rows, CHATGLM3, three, 20, 20)) == 1
    assert "left out 1 of 2 rows" in caplog.text
    with pytest.raises(InputError, match="all 1 rows have no answer left"):
        SupervisedDataset(rows[:1], CHATGLM3, three, 20, 20)
    with pytest.raises(InputError, match="src_length is 0"):
        SupervisedDataset(rows, CHATGLM3, three, 0, 20)


def test_a_row_that_cannot_be_rendered_is_named(tokenizer):
    wrong = Example(({"role": "tool", "content": "x"},), "rows.json:7")
    with pytest.raises(InputError, match=r"rows\.json:7: .*'tool'"):
        SupervisedDataset([wrong], CHATGLM2, tokenizer, 8, 8)


def test_generation_prompts_and_references(tokenizer):
    rows = [*EXAMPLES, example("你好")]
    dataset = GenerationDataset(rows, CHATGLM2, tokenizer, 64, 64)
    assert dataset[1]["input_ids"].tolist() == tokenizer.encode(tokenizer.build_prompt("你好"))
    assert dataset.references[1] == "世界！"
    assert dataset.references[-1] is None
    assert dataset.lengths == [len(dataset[index]["input_ids"]) for index in range(5)]
    cut = GenerationDataset(rows, CHATGLM2, tokenizer, 10, 6)
    assert cut[0]["input_ids"].tolist() == dataset[0]["input_ids"].tolist()[:10]
    # The original's label is [gMASK] sop and the answer, cut to tgt_length together, then decoded.
    label = tokenizer.encode(EXAMPLES[0].answer, truncation=True, max_length=6)
    assert cut.references[0] == tokenizer.decode(label)


def test_generation_batches_are_padded_on_the_left(tokenizer):
    dataset = GenerationDataset(EXAMPLES, CHATGLM2, tokenizer, 64, 64)
    batch = Collator(tokenizer.pad_token_id, side="left")(list(dataset))
    expected = tokenizer.pad([{"input_ids": row["input_ids"]} for row in dataset], return_tensors="np")
    assert batch.keys() == expected.keys()
    for name, array in batch.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, expected[name])


def test_training_batches_are_padded_on_the_right(dataset, tokenizer):
    collator = Collator(tokenizer.pad_token_id, pad_to_multiple_of=8)
    batch = collator([dataset[0], dataset[2]])
    length = batch["input_ids"].shape[1]
    assert length % 8 == 0
    assert max(dataset.lengths) <= length < max(dataset.lengths) + 8
    for row, index in enumerate((0, 2)):
        size = dataset.lengths[index]
        np.testing.assert_array_equal(batch["input_ids"][row, :size], dataset[index]["input_ids"])
        np.testing.assert_array_equal(batch["labels"][row, :size], dataset[index]["labels"])
        np.testing.assert_array_equal(batch["position_ids"][row, :size], np.arange(size))
        assert (batch["input_ids"][row, size:] == tokenizer.pad_token_id).all()
        assert (batch["labels"][row, size:] == IGNORE_INDEX).all()
        assert not batch["position_ids"][row, size:].any()
        assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (length - size)
    with pytest.raises(InputError, match="'middle'"):
        Collator(0, side="middle")


def test_packed_batches_keep_samples_apart(dataset, tokenizer):
    packed = PackedDataset(dataset, max_length=max_sample_length(64, 64))
    assert len(packed) < len(dataset)
    batch = Collator(tokenizer.pad_token_id, pad_to_multiple_of=16)([packed[i] for i in range(len(packed))])
    rows, length = batch["input_ids"].shape
    assert batch["attention_mask"].shape == (rows, length)
    visible = boolean_mask(paddle.to_tensor(batch["attention_mask"]), length).numpy()
    for row in range(rows):
        start = 0
        for index in packed.members(row):
            stop = start + dataset.lengths[index]
            np.testing.assert_array_equal(batch["input_ids"][row, start:stop], dataset[index]["input_ids"])
            np.testing.assert_array_equal(batch["position_ids"][row, start:stop], np.arange(stop - start))
            assert batch["labels"][row, start] == IGNORE_INDEX
            mask = visible[row, 0, start:stop]
            np.testing.assert_array_equal(mask[:, start:stop], np.tri(stop - start, dtype=bool))
            assert not mask[:, :start].any()
            assert not mask[:, stop:].any()
            start = stop
        assert (batch["labels"][row, start:] == IGNORE_INDEX).all()
        assert not batch["attention_mask"][row, start:].any()


class Samples(list):
    """Random samples where a dataset is expected."""

    @property
    def lengths(self):
        return [len(sample["input_ids"]) for sample in self]


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), max_size=60), limit=st.integers(30, 70))
def test_packing_loses_nothing(lengths, limit):
    random = np.random.default_rng(len(lengths))
    samples = Samples(
        {
            "input_ids": random.integers(0, 99, size),
            "labels": np.r_[IGNORE_INDEX, np.arange(1, size)],
            "position_ids": np.arange(size),
        }
        for size in lengths
    )
    packed = PackedDataset(samples, limit)
    members = [packed.members(index).tolist() for index in range(len(packed))]
    assert sorted(chain(*members)) == list(range(len(lengths)))
    assert all(length <= limit for length in packed.lengths)
    rows = [packed[index] for index in range(len(packed))]
    assert packed.lengths.tolist() == [len(row["input_ids"]) for row in rows]

    def tokens(items):
        return sorted(token for item in items for token in item["input_ids"].tolist())

    def trained(items):
        return sum(int((item["labels"] != IGNORE_INDEX).sum()) for item in items)

    assert tokens(rows) == tokens(samples)
    assert trained(rows) == trained(samples)
    # Best fit leaves at most one bin half empty: two such could have been one.
    assert sum(length * 2 <= limit for length in packed.lengths) <= 1


def test_samples_are_packed_within_spans(dataset, monkeypatch):
    monkeypatch.setattr(datasets, "_PACKING_SPAN", 2)
    packed = PackedDataset(dataset, 1000)
    assert [packed.members(index).tolist() for index in range(len(packed))] == [[0, 1], [2, 3]]
    assert packed.lengths.tolist() == [len(packed[index]["labels"]) for index in range(2)]


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="31 tokens does not fit into a packed row of 30"):
        pack_samples([5, 31], 30)
    assert pack_samples([], 30) == []


def test_first_label_of_a_packed_sample_is_ignored():
    names = ("input_ids", "labels", "position_ids")
    samples = Samples([{name: np.arange(3) for name in names}] * 2)
    (row,) = [PackedDataset(samples, 6)[0]]
    assert row["labels"].tolist() == [IGNORE_INDEX, 1, 2, IGNORE_INDEX, 1, 2]


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_a_packed_batch_has_the_loss_of_its_samples(family, tmp_path):
    """Also where a prompt is read in both directions, and positions have two rows."""
    texts = [message["content"] for row in EXAMPLES for message in row.messages] * 20
    sizes = {"hidden_size": 32, "ffn_hidden_size": 48, "max_sequence_length": 256}
    write_checkpoint(tmp_path / "model", texts, family, vocab_size=380, **sizes)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model")
    dataset = SupervisedDataset(EXAMPLES, tokenizer.template, tokenizer, 64, 64)

    def total_loss(rows):
        collate = Collator(tokenizer.pad_token_id, pad_to_multiple_of=8)
        loader = paddle.io.DataLoader(rows, batch_size=len(rows), collate_fn=collate)
        (batch,) = list(loader)
        return float(model(**batch).loss) * int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())

    packed = PackedDataset(dataset, sum(dataset.lengths))
    assert len(packed) == 1
    assert total_loss(packed) == pytest.approx(total_loss(dataset), rel=1e-5)


def test_real_rows_pack_well():
    tokenizer = ChatGLM2Tokenizer(data("tokenizers/chatglm2-6b/tokenizer.model"))
    rows = load_examples(data("school_math/school_math_first1000.json"))
    dataset = SupervisedDataset(rows, CHATGLM2, tokenizer, 128, 512)
    limit = max_sample_length(128, 512)
    packed = PackedDataset(dataset, limit)
    assert sum(packed.lengths) == sum(dataset.lengths)
    assert sum(packed.lengths) > 0.98 * limit * len(packed)
