"""What opening a model needs, the dtype of `auto`, and what is said where it does not fit."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.kernels.library import isa
from paddle_glm.load_memory import (
    CACHE_TOKENS,
    FLOAT32_MEMORY_FRACTION,
    LOAD_PEAK_FACTOR,
    SKIP_VARIABLE,
    InsufficientMemoryError,
    LoadRequest,
    MemoryBudget,
    needed_bytes,
    resolve_dtype,
    select_dtype,
    weight_bytes,
)
from paddle_glm.models.family import family_of
from paddle_glm.parallel import SINGLE_PROCESS
from paddle_glm.parallel.memory import memory_budget

GB = 10**9
REAL = ModelConfig()  # ChatGLM2-6B: 6.24 billion parameters


def model(dtype: str = "float16", bits: int | None = None, stored: ModelConfig = REAL) -> LoadRequest:
    config = stored if bits is None else family_of(stored).quantized_config(stored, bits)
    return LoadRequest("chatglm2-6b", stored, dtype, config)


def cpu(gigabytes: float, **options: int) -> MemoryBudget:
    return MemoryBudget("cpu", int(gigabytes * GB), **options)


def test_bytes_of_the_real_model() -> None:
    assert weight_bytes(REAL, "float32") / GB == pytest.approx(24.97, abs=0.01)
    assert weight_bytes(REAL, "float16") == weight_bytes(REAL, "float32") // 2
    assert weight_bytes(model(bits=4).config, "float16") / GB == pytest.approx(4.1, abs=0.1)
    shares = [weight_bytes(REAL, "float16", degree) for degree in (1, 2, 4)]
    assert shares[0] / 2 < shares[1] < 0.51 * shares[0] and shares[0] / 4 < shares[2] < 0.26 * shares[0]
    cache = 28 * 2 * 2 * 128 * 4 * CACHE_TOKENS  # layers, key and value, heads, channels, float32
    assert needed_bytes(REAL, "float16", cpu(1)) == int(LOAD_PEAK_FACTOR * shares[0]) + cache


def test_what_is_counted_is_what_a_model_holds(tiny_checkpoint: Path) -> None:
    for options in ({}, {"quantization_bit": 8}, {"quantization_bit": 4}):
        model = AutoModel.from_pretrained(tiny_checkpoint, dtype="float16", **options)
        held = sum(parameter.numpy().nbytes for parameter in model.parameters())
        assert weight_bytes(model.config, "float16") == held


@pytest.mark.parametrize(
    ("own", "budget", "expected"),
    [
        ("float16", cpu(64), "float32"),  # faster, and there is room
        ("float16", cpu(40), "float16"),  # it would fit, but leave little to others
        ("bfloat16", cpu(24), "bfloat16"),
        ("float32", cpu(24), "float32"),  # its own, and too large: another dtype is asked for, not taken
        ("float16", MemoryBudget("gpu:0", 80 * GB), "float16"),
        ("float16", cpu(64, degree=2, local_degree=2), "float32"),
        ("float16", cpu(40, degree=2, local_degree=2), "float16"),  # both processes share the machine
        ("float16", cpu(40, degree=2, local_degree=1), "float32"),  # on two machines
    ],
)  # fmt: skip
def test_auto(own: str, budget: MemoryBudget, expected: str) -> None:
    assert resolve_dtype("auto", own, REAL, budget) == expected
    assert resolve_dtype("bfloat16", own, REAL, budget) == "bfloat16"


def test_auto_keeps_half_precision_that_is_multiplied_as_it_is() -> None:
    assert resolve_dtype("auto", "float16", REAL, cpu(64, multiplies_half=True)) == "float16"
    assert resolve_dtype("float32", "float16", REAL, cpu(64, multiplies_half=True)) == "float32"
    with_kernels = isa() not in ("", "portable")
    assert memory_budget(SINGLE_PROCESS).multiplies_half == with_kernels


def test_the_border_of_comfort() -> None:
    needed = needed_bytes(REAL, "float32", cpu(1))
    assert (
        resolve_dtype("auto", "float16", REAL, MemoryBudget("cpu", int(needed / FLOAT32_MEMORY_FRACTION) + 2))
        == "float32"
    )
    assert (
        resolve_dtype("auto", "float16", REAL, MemoryBudget("cpu", int(needed / FLOAT32_MEMORY_FRACTION) - 2))
        == "float16"
    )
    with pytest.raises(InputError, match="'int4' is not one of auto, float32, float16, bfloat16"):
        resolve_dtype("int4", "float16", REAL, cpu(1))


def test_one_line_says_what_is_opened(caplog) -> None:
    with caplog.at_level(logging.INFO):
        assert select_dtype(model(), "auto", cpu(20.1)) == "float16"
        select_dtype(model(bits=4), "float16", cpu(20.1, degree=2, local_degree=2))
        select_dtype(model(), "auto", MemoryBudget("cpu", 20 * GB, is_leader=False))
    assert [record.getMessage() for record in caplog.records] == [
        "chatglm2-6b: float16 weights, 12.5 GB, on the CPU (20.1 GB free)",
        "chatglm2-6b: int4 and float16 weights, 2.1 GB in each of 2 processes, on the CPU (20.1 GB free)",
    ]


F16, BITS = "--dtype float16", "--quantization_bit"
MORE = "more memory is needed"


@pytest.mark.parametrize(
    ("what", "wanted", "gigabytes", "named", "left_out"),
    [
        (model(), "auto", 12, ["needs 14.4 GB of memory on the CPU, 12.0 GB are free", f"{BITS} 8 (7.9 GB)",
                                 f"{BITS} 4 (4.8 GB) fits"], [F16, MORE]),
        (model(), "auto", 6, [f"{BITS} 4 (4.8 GB) fits"], [f"{BITS} 8", F16]),
        (model(), "auto", 4, [MORE, f"the least is 4.8 GB, with {BITS} 4;"], ["fits"]),
        (model("float32"), "auto", 24, [f"{F16} (14.4", f"{BITS} 8 (9.1", f"{BITS} 4 (6.0"], [f"4 {F16}"]),
        (model("float32"), "auto", 5, [f"{BITS} 4 {F16} (4.8 GB) fits"], [f"{BITS} 8"]),
        (model(), "float32", 24, [f"{F16} (14.4 GB)", f"{BITS} 8", f"{BITS} 4"], []),
        (model("bfloat16"), "float32", 24, ["--dtype bfloat16 (14.4 GB)"], [F16]),
        (model(bits=8), "auto", 6, ["int8 and float16 weights needs 7.9", f"{BITS} 4 (4.8"], [f"{BITS} 8"]),
        (model(stored=model(bits=4).config), "float32", 5.5, [f"{F16} (4.8 GB) fits"], [BITS]),
        (model(stored=model(bits=4).config), "auto", 3, [MORE], ["--", "least"]),
        (model(), "float16", 12.6, ["on the CPU"], [F16]),
    ],
)  # fmt: skip
def test_too_little_is_said_with_what_fits(what, wanted, gigabytes, named, left_out, monkeypatch) -> None:
    with pytest.raises(InsufficientMemoryError) as caught:
        select_dtype(what, wanted, cpu(gigabytes))
    message = str(caught.value)
    assert all(text in message for text in [*named, f"{SKIP_VARIABLE}=1"]), message
    assert not any(text in message for text in left_out), message
    monkeypatch.setenv(SKIP_VARIABLE, "1")
    assert select_dtype(what, wanted, cpu(gigabytes))


def test_processes_of_one_machine_share_its_memory() -> None:
    with pytest.raises(InsufficientMemoryError, match=r"needs 14\.6 GB of memory on the CPU, 10\.0 GB"):
        select_dtype(model(), "float16", cpu(10, degree=4, local_degree=4))
    assert select_dtype(model(), "float16", cpu(10, degree=4, local_degree=1)) == "float16"


@pytest.fixture
def small_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what the tiny model needs is free, as files in a folder say."""
    from paddle_glm import hardware

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 600 kB\n")
    whole = hardware.free_cpu_memory
    monkeypatch.setattr(hardware, "free_cpu_memory", lambda: whole(tmp_path))


def test_auto_model_looks_before_it_reads(tiny_checkpoint: Path, small_machine, monkeypatch) -> None:
    monkeypatch.setattr("paddle_glm.auto.model._build_model", lambda *_: pytest.fail("a model was made"))
    with pytest.raises(InsufficientMemoryError, match=r"0\.6 MB are free"):
        AutoModel.from_pretrained(tiny_checkpoint)


def test_auto_keeps_halves_where_room_is_short(tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    from paddle_glm import hardware

    reshard(tiny_checkpoint, tmp_path / "half", dtype="float16")
    assert json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"] == "float16"
    with_kernels = memory_budget(SINGLE_PROCESS).multiplies_half
    assert AutoModel.from_pretrained(tmp_path / "half").dtype == ("float16" if with_kernels else "float32")
    monkeypatch.setattr("paddle_glm.parallel.memory.isa", lambda: "")
    model = AutoModel.from_pretrained(tmp_path / "half")
    assert model.dtype == "float32"
    free = needed_bytes(model.config, "float32", cpu(1))  # it would fit, and leave nothing
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable: {free // 1024} kB\n")
    whole = hardware.free_cpu_memory
    monkeypatch.setattr(hardware, "free_cpu_memory", lambda: whole(tmp_path))
    model = AutoModel.from_pretrained(tmp_path / "half")
    assert model.dtype == "float16"
    assert {np.dtype(p.numpy().dtype).name for p in model.parameters()} == {"float16"}
