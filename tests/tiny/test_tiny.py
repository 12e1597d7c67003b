"""The rows, tokenizer and checkpoint that a first run is made of."""

import json
import re

import numpy as np
import pytest

from paddle_glm.auto.tokenizer import AutoTokenizer
from paddle_glm.chat_template import render
from paddle_glm.checkpoint import open_checkpoint
from paddle_glm.errors import InputError
from paddle_glm.main import main
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.models.registry import family_names
from paddle_glm.tiny.checkpoint import initial_weights, write_checkpoint
from paddle_glm.tiny.grammar import make_rows, write_dataset
from paddle_glm.tiny.phrases import PHRASES, TYPES
from paddle_glm.tiny.tokenizer import train_tokenizer

SETTINGS = ChatGLM2Tokenizer.sentencepiece


def test_rows_are_the_same_every_time_and_differ_by_seed():
    assert make_rows(50, seed=3) == make_rows(50, seed=3)
    assert make_rows(50, seed=3) != make_rows(50, seed=4)


def test_thousands_of_different_rows():
    rows = make_rows(8000)
    assert len({row["content"] for row in rows}) == 8000
    assert len({row["summary"] for row in rows}) > 7900


def test_every_row_advertises_each_of_its_attributes():
    for row in make_rows(300):
        pairs = [pair.split("#") for pair in row["content"].split("*")]
        assert [name for name, _ in pairs[:2]] == ["类型", "样式"]
        kind, noun = pairs[0][1], pairs[1][1]
        assert noun in TYPES[kind]["样式"] and noun in row["summary"]
        for name, value in pairs[2:]:
            assert any(phrase in row["summary"] for phrase in PHRASES[name][value]), (name, value)
        assert re.fullmatch(r"这[款件].+。", row["summary"])


def test_no_phrase_advertises_two_values():
    phrases = [phrase for values in PHRASES.values() for each in values.values() for phrase in each]
    assert len(phrases) == len(set(phrases))


def test_dataset_holds_rows_out(tmp_path):
    write_dataset(tmp_path, train=500, dev=40)
    train, dev = (
        [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("train.json", "dev.json")
    )
    assert (len(train), len(dev)) == (500, 40)
    assert not {row["content"] for row in train} & {row["content"] for row in dev}


def test_another_writer_says_the_same_in_other_words():
    """What one takes for the usual phrasing, the other takes rarely."""
    usual = {values[value][0] for values in PHRASES.values() for value in values}

    def share(rows):
        clauses = sum(len(row["content"].split("*")) - 2 for row in rows)
        return sum(phrase in row["summary"] for row in rows for phrase in usual) / clauses

    assert share(make_rows(300)) == pytest.approx(0.75, abs=0.05)
    assert share(make_rows(300, preferred=1)) == pytest.approx(0.25, abs=0.05)


def test_impossible_number_of_rows():
    with pytest.raises(InputError, match="-1 rows"):
        make_rows(-1)


def test_tokenizer_is_laid_out_as_chatglm2s(tiny_checkpoint):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(str(tiny_checkpoint / "tokenizer.model"))
    assert model.get_piece_size() == 512
    assert [model.id_to_piece(index) for index in (0, 1, 2)] == ["<unk>", "<s>", "</s>"]
    assert model.pad_id() == -1
    assert model.is_byte(3) and model.is_byte(258) and not model.is_byte(259)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    assert tokenizer.get_command("[gMASK]") == 512 + 1


@pytest.mark.parametrize(
    "text", ["类型#裙*颜色#白色", "𠮷 rare é\t characters\n  and  blanks ", "[Round 1]\n\n问：", "😀"]
)
def test_tokenizer_keeps_every_character(tiny_checkpoint, text):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_tokenizer_is_the_same_every_time(tmp_path, tiny_rows):
    texts = [row["summary"] for row in tiny_rows]
    first, second = (train_tokenizer(texts, tmp_path / name, 400, SETTINGS).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("vocab_size", [100, 260, 50_000])
def test_vocabulary_that_cannot_be_learnt(tmp_path, tiny_rows, vocab_size):
    with pytest.raises(InputError, match=f"{vocab_size}"):
        train_tokenizer([row["summary"] for row in tiny_rows], tmp_path / "t.model", vocab_size, SETTINGS)


def test_checkpoint_is_whole_and_valid(tiny_checkpoint):
    checkpoint = open_checkpoint(tiny_checkpoint)
    checkpoint.validate()
    assert checkpoint.config.vocab_size == 520
    name = "transformer.encoder.layers.1.mlp.dense_h_to_4h.weight"
    weight = checkpoint.read(name)
    assert weight.dtype == np.float32 and weight.shape == (192, 64)
    assert weight.std() == pytest.approx(0.02, rel=0.05)
    assert (checkpoint.read("transformer.encoder.final_layernorm.weight") == 1).all()


def test_weights_depend_on_the_seed_alone(tiny_checkpoint):
    config = open_checkpoint(tiny_checkpoint).config
    first, again, other = (dict(initial_weights(config, seed)) for seed in (0, 0, 1))
    name = "transformer.embedding.word_embeddings.weight"
    assert (first[name] == again[name]).all() and (first[name] != other[name]).any()
    assert (first[name] == open_checkpoint(tiny_checkpoint).read(name)).all()


@pytest.mark.parametrize("family", family_names())
def test_command_makes_data_and_a_model_of_each_family(tmp_path, capsys, family):
    sizes = ["--train_rows", "60", "--dev_rows", "5", "--vocab_size", "400", "--hidden_size", "32"]
    assert main(["tiny", "--output_dir", str(tmp_path), "--family", family, *sizes]) == 0
    assert "60 training rows" in capsys.readouterr().out
    assert open_checkpoint(tmp_path / "model").config.family == family
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.family == family
    assert render(tokenizer.template, tokenizer, [{"role": "user", "content": "类型#裙"}]).input_ids


def test_command_takes_rows_of_any_known_layout(tmp_path):
    rows = [
        {"instruction": f"{number}加{number}等于多少", "output": f"{2 * number}"} for number in range(200)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "train.json").write_text("\n".join(lines), encoding="utf-8")
    command = ["tiny", "--output_dir", str(tmp_path), "--data", str(tmp_path), "--vocab_size", "300"]
    assert main(command) == 0
    assert not (tmp_path / "data").exists()
    assert "加" in AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab()


def test_command_does_not_replace_what_is_there(tmp_path, tiny_rows, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert main(["tiny", "--output_dir", str(tmp_path), "--train_rows", "50", "--overwrite"]) == 2
    assert (tmp_path / "model" / "thesis.txt").exists()
    assert "not replaced" in capsys.readouterr().err


def test_sizes_that_do_not_fit(tmp_path, tiny_rows):
    texts = [row["summary"] for row in tiny_rows]
    with pytest.raises(InputError, match="num_attention_heads 4 is not a multiple of num_key_value_heads 3"):
        write_checkpoint(tmp_path / "model", texts, vocab_size=400, num_key_value_heads=3)
    assert not (tmp_path / "model").exists()


SMALL = ("--train_rows", "60", "--dev_rows", "3", "--vocab_size", "300", "--hidden_size", "32")


def contents(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_command_runs_twice(tmp_path, capsys):
    command = ["tiny", "--output_dir", str(tmp_path), *SMALL]
    assert main(command) == 0
    first = contents(tmp_path)
    assert main(command) == 0
    assert "is there already" in capsys.readouterr().out
    assert main([*command, "--overwrite"]) == 0
    assert contents(tmp_path) == first


def test_other_flags_are_an_error_before_anything_is_written(tmp_path, capsys):
    command = ["tiny", "--output_dir", str(tmp_path), *SMALL]
    assert main(command) == 0
    first = contents(tmp_path)
    assert main([*command, "--seed", "1"]) == 2
    assert "with other settings" in capsys.readouterr().err
    assert contents(tmp_path) == first
    assert main([*command, "--seed", "1", "--overwrite"]) == 0
    assert contents(tmp_path) != first


@pytest.mark.parametrize("flags", [(), ("--overwrite",), ("--overwrite", "--seed", "1")])
def test_rows_that_someone_changed_are_never_replaced(flags, tmp_path, capsys):
    command = ["tiny", "--output_dir", str(tmp_path), *SMALL]
    assert main(command) == 0
    with open(tmp_path / "data" / "train.json", "a", encoding="utf-8") as file:
        file.write('{"content": "mine", "summary": "mine"}\n')
    mine = contents(tmp_path)
    assert main([*command, *flags]) == 2
    assert re.search("was changed|with other settings", capsys.readouterr().err)
    assert contents(tmp_path) == mine
