"""The benchmarks of engines and of the machine: what they make of measurements, and the files they write."""

import argparse
import struct
import subprocess
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import chat_engines, machine
from benchmarks.chat_engines import ENGINES, Entry, engine_file, make_parser, medians, table
from benchmarks.peers import chatglm_cpp, llama_cpp
from benchmarks.peers.contract import Shape
from paddle_glm.config import ModelConfig, released_configs
from paddle_glm.models.family import family_of

SMALL = replace(Shape().small(), layers=2)


def test_rates_of_the_machine_become_a_table():
    one = machine.parse("read: 20.5 21.0\nint8 VNNI: 470\nint8 AMX:\n")
    two = machine.parse("read: 40 39\nint8 VNNI: 930 940\nint8 AMX:\n")
    assert one == {"read": [20.5, 21.0], "int8 VNNI": [470.0], "int8 AMX": []}
    assert machine.table({1: one, 2: two}).splitlines() == [
        "| | 1 thread | 2 threads |",
        "|---|---|---|",
        "| read | 21 GB/s | 40 GB/s |",
        "| int8 VNNI | 470 GOP/s | 940 GOP/s |",
        "| int8 AMX | not supported | not supported |",
    ]


def test_entries_name_an_engine_and_one_or_all_of_its_kinds():
    assert Entry.parse("llama_cpp:q8_0") == [Entry("llama_cpp", "q8_0")]
    assert [str(one) for one in Entry.parse("chatglm_cpp")] == ["chatglm_cpp:q4_0", "chatglm_cpp:q8_0"]
    for word, expected in (("llama", "llama_cpp"), ("openvino:q4_0", "int4, int8")):
        with pytest.raises(argparse.ArgumentTypeError, match=expected):
            Entry.parse(word)


def test_a_wrong_engine_ends_with_a_usage_message(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--engines", "dygraph:int3"])
    assert "dygraph has int4, int4-embeddings, int8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_pins_its_packages(name):
    file = engine_file(name)
    assert file.KINDS
    assert all("==" in package for package in file.PACKAGES)
    assert set(file.FROM_SOURCE) <= {package.partition("==")[0] for package in file.PACKAGES}


def test_medians_are_those_of_each_figure():
    runs = [{"usable": 3.0, "peak": 5.0}, {"usable": 1.0, "peak": 7.0}, {"usable": 2.0, "peak": 6.0}]
    assert medians(runs) == {"usable": 2.0, "peak": 6.0}


def test_the_table_puts_prompts_first_and_lengths_in_order():
    sizes = {"files": 3.5e9, "opening": 4e9, "peak": 5e9, "resident": 4.5e9, "anonymous": 1e9}
    row = {"usable": 1.25, "decode 32": 5.125, "prompt 512": 40.0, "prompt 128": 30.0, **sizes}
    head, _, line = table({"llama_cpp:q4_0": row}).splitlines()
    assert head.endswith("| prompt 128 | prompt 512 | decode 32 |")
    assert line == "| llama_cpp:q4_0 | 1.2 | 3.50 | 4.00 | 5.00 | 4.50 | 30.0 | 40.0 | 5.12 |"


class CountingEngine:
    """Remembers the lengths that it computes."""

    def __init__(self, logit: float) -> None:
        self.calls: list[int] = []
        self.logits = np.full(4, logit)

    def prefill(self, ids: list[int]) -> np.ndarray:
        self.calls.append(len(ids))
        return self.logits

    def decode(self, token: int) -> np.ndarray:
        self.calls.append(1)
        return self.logits


def measured(monkeypatch: pytest.MonkeyPatch, engine: CountingEngine) -> dict[str, float]:
    opener = SimpleNamespace(open_engine=lambda *_: engine)
    monkeypatch.setattr(chat_engines, "engine_file", lambda name: opener)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)
    settings = {"prompts": [32, 64], "contexts": [16, 64], "steps": 3, "threads": 1}
    return chat_engines.measure("dygraph", "int4", Shape(), Path(), settings)


def test_each_length_is_computed_once_and_decoded_behind_where_asked(monkeypatch):
    engine = CountingEngine(0.5)
    row = measured(monkeypatch, engine)
    assert engine.calls == [8, 16, 1, 1, 1, 32, 64, 1, 1, 1]
    speeds = {"prompt 32", "prompt 64", "decode 16", "decode 64"}
    assert set(row) == speeds | {"usable", "opening", "peak", "resident", "anonymous"}
    assert row["opening"] <= row["peak"] and row["anonymous"] < row["resident"] <= row["peak"]


def test_logits_that_are_not_finite_end_the_run(monkeypatch):
    with pytest.raises(SystemExit, match="dygraph:int4 gives logits that are not finite"):
        measured(monkeypatch, CountingEngine(float("nan")))


@pytest.mark.integration
def test_the_machine_is_measured(tmp_path: Path):
    machine.compile_program(tmp_path / "machine")
    words = [str(tmp_path / "machine"), "2", str(1 << 26), "2"]
    rates = machine.parse(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert len(rates["read"]) == 2 and min(rates["read"]) > 0
    assert {len(found) for found in rates.values()} <= {0, 2}


@pytest.mark.parametrize("file", [llama_cpp, chatglm_cpp])
def test_other_formats_hold_as_many_weights_as_chatglm2(file):
    config = ModelConfig.from_dict(released_configs()["chatglm2-6b"])
    ours = sum(prod(spec.shape) for spec in family_of(config).float_parameters(config).values())
    assert sum(prod(shape) for _, shape in file.tensors(Shape())) == ours


@pytest.mark.parametrize("kind", chatglm_cpp.KINDS)
def test_blocks_of_chatglm_cpp_hold_the_random_weights(kind):
    width = 64
    blocks = chatglm_cpp.quantized_tile(kind, width).reshape(chatglm_cpp.TILE * width // 32, -1)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    values = blocks[:, 2:]
    if kind == "q4_0":
        values = np.concatenate([values & 15, values >> 4], axis=1).astype(np.int16) - 8
    weights = values.view(np.int8 if kind == "q8_0" else np.int16) * scale
    random = np.random.default_rng(0).standard_normal(weights.shape) * 0.02
    assert np.abs(weights - random).max() < 0.51 * scale.max()


def test_a_file_of_chatglm_cpp_reads_as_its_loader_does(tmp_path: Path):
    sentencepiece = pytest.importorskip("sentencepiece")
    chatglm_cpp.write(tmp_path, "q4_0", SMALL)
    data = (tmp_path / "model.bin").read_bytes()
    sizes = SMALL.vocab, SMALL.hidden, SMALL.heads, SMALL.groups, SMALL.layers, SMALL.ffn
    assert data[:4] == b"ggml" and struct.unpack_from("9i", data, 4) == (2, 2, 2, *sizes)
    place = 4 + 4 * 15
    length = struct.unpack_from("i", data, place)[0]
    place += 4
    processor = sentencepiece.SentencePieceProcessor(model_proto=data[place : place + length])
    assert processor.get_piece_size() == 4
    place += length
    found = []
    while place < len(data):
        length = struct.unpack_from("i", data, place)[0]
        name = data[place + 4 : place + 4 + length].decode()
        place += 4 + length
        dims = struct.unpack_from("i", data, place)[0]
        *shape, stored = struct.unpack_from(f"{dims + 1}i", data, place + 4)
        place += 4 * (dims + 2)
        place += -place % 16
        found.append((name, tuple(shape)))
        place += prod(shape) * 4 if stored == 0 else prod(shape) // 32 * 18
    assert place == len(data)
    assert found == list(chatglm_cpp.tensors(SMALL))


@pytest.mark.parametrize("kind", llama_cpp.KINDS)
def test_a_gguf_file_holds_all_weights(tmp_path: Path, kind: str):
    hint = "run in the environment of benchmarks/chat_engines.py --install llama_cpp"
    gguf = pytest.importorskip("gguf", reason=hint)
    pytest.importorskip("llama_cpp", reason=hint)
    llama_cpp.write(tmp_path, kind, SMALL)
    tensors = gguf.GGUFReader(tmp_path / "model.gguf").tensors
    found = [(one.name, tuple(int(size) for size in reversed(one.shape))) for one in tensors]
    assert found == list(llama_cpp.tensors(SMALL))


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_decoded_token_is_as_in_the_prompt(tmp_path: Path, name: str, kind: str):
    pytest.importorskip(name)
    pytest.importorskip("onnx")
    file = engine_file(name)
    file.write(tmp_path, kind, SMALL)
    engine = file.open_engine(tmp_path, kind, SMALL, threads=1, context=32)
    ids = [7 * place % 500 for place in range(20)]
    whole = np.array(engine.prefill(ids))
    assert not np.allclose(whole, engine.prefill(ids[:-1]), atol=0.02)
    assert np.isfinite(whole).all() and whole.shape == (SMALL.vocab,)
    np.testing.assert_allclose(engine.decode(ids[-1]), whole, atol=0.02)
