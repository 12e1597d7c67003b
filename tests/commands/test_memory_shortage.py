"""Every command that opens a model looks for memory first, and its hints can be followed."""

import re
from pathlib import Path

import pytest

from paddle_glm import hardware
from paddle_glm.auto.engine import open_engine
from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.kernels.library import kernel_library
from paddle_glm.load_memory import MemoryBudget, needed_bytes, upcast_bytes
from paddle_glm.main import main
from paddle_glm.models.family import family_of
from paddle_glm.serving.batching.scheduler import Scheduler
from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import Row

ASKED = ["--max_new_tokens", "2", "--do_sample", "False"]


@pytest.fixture
def leave_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bytes -> a machine, as files in a folder say, where so many are free."""
    whole = hardware.free_cpu_memory

    def leave(size: int) -> None:
        (tmp_path / "root/proc").mkdir(parents=True, exist_ok=True)
        (tmp_path / "root/proc/meminfo").write_text(f"MemAvailable: {size // 1024 + 1} kB\n")
        monkeypatch.setattr(hardware, "free_cpu_memory", lambda: whole(tmp_path / "root"))

    return leave


@pytest.fixture(scope="module")
def exported(tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Graphs of a model whose layers are larger than what a step makes of its head."""
    parent = tmp_path_factory.mktemp("graphs")
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(
        parent / "model", texts, vocab_size=512, num_layers=8, hidden_size=64, ffn_hidden_size=96
    )
    start = ["export", "--model_name_or_path", str(parent / "model"), "--output_path"]
    for format in ("paddle", "onnx"):
        assert main([*start, str(parent / format), "--format", format]) == 0
    return {format: parent / format for format in ("paddle", "onnx")}


def commands(model: Path, out: Path, rows: Path) -> dict[str, list[str]]:
    return {
        "chat": ["chat", "--model_path", str(model), *ASKED],
        "serve": ["serve", "--model_path", str(model), "--port", "0"],
        "web": ["web", "--model_path", str(model)],
        "predict": ["predict", "--model_name_or_path", str(model), "--predict_file", str(out / "p.json")],
        "evaluate": ["evaluate", "--model_name_or_path", str(model), "--data_file", str(rows)],
        "export": ["export", "--model_name_or_path", str(model), "--output_path", str(out / "exported")],
        "finetune": ["finetune", "--model_name_or_path", str(model), "--output_dir", str(out / "run"),
                     "--do_train", "--train_file", str(rows)],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["chat", "serve", "web", "predict", "evaluate", "export", "finetune"])
def test_a_model_that_does_not_fit(name: str, tiny_checkpoint, tmp_path, leave_free, capsys) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text('[{"content": "类型#裙", "summary": "裙子"}]', encoding="utf-8")
    leave_free(300_000)
    assert main(commands(tiny_checkpoint, tmp_path, rows)[name]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"chatglm2 with float32 weights needs 1\.\d MB of memory on the CPU, 0\.3 MB are free", error
    )
    assert ("estimate-memory" if name == "finetune" else "the least is") in error
    assert not (tmp_path / "exported").exists()


def test_the_flags_that_are_named_help(tiny_checkpoint, tmp_path, leave_free, capsys) -> None:
    config = ModelConfig.from_pretrained(tiny_checkpoint)
    leave_free(
        (
            needed_bytes(config, "float32", MemoryBudget("cpu", 0))
            + needed_bytes(config, "float16", MemoryBudget("cpu", 0))
        )
        // 2
    )
    words = commands(tiny_checkpoint, tmp_path, tmp_path)["predict"]
    assert main(words) == 2
    ways = re.findall(r"(--[a-z_]+ \w+) \([0-9.]+ MB\)", capsys.readouterr().err)
    assert {"--quantization_bit 8", "--quantization_bit 4", "--dtype float16"} == set(ways)
    for way in ways:
        assert main([*words, *way.split()]) == 0


@pytest.mark.parametrize(
    ("backend", "format", "helps"),
    [("paddle", "paddle", "export it with --quantization_bit 8 or --quantization_bit 4;"),
     ("onnxruntime", "onnx", "export it with --quantization_bit 8 or"),
     ("openvino", "onnx", "by --backend onnxruntime, which keeps integers;")],
)  # fmt: skip
def test_a_graph_that_does_not_fit(backend, format, helps, exported, leave_free, capsys, tmp_path) -> None:
    config = ModelConfig.from_pretrained(exported[format])
    eight_bits = family_of(config).quantized_config(config, 8)
    leave_free(needed_bytes(eight_bits, "float32", MemoryBudget("cpu", 0)) + upcast_bytes(config))
    words = ["--model_path", str(exported[format]), "--backend", backend]
    assert main(["infer", *words, "--tgt_length", "2"]) == 2
    error = capsys.readouterr().err
    assert (
        re.search(rf"{format}, a graph with float32 weights, needs .* MB are free: ", error)
        and helps in error
    )
    assert main(["chat", *words, *ASKED]) == 2
    assert "a graph with float32 weights, needs" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--dtype", "float16"), ("--quantization_bit", "8")])
@pytest.mark.parametrize("portable", [False, True], ids=["operators", "portable"])
def test_a_graph_whose_weights_stay_small(
    portable, flags, tiny_checkpoint, leave_free, capsys, tmp_path
) -> None:
    """Half precision and integers are held as stored; a step of a portable graph makes float32 of one weight
    at a time."""
    folder = tmp_path / "small"
    start = ["--model_name_or_path", str(tiny_checkpoint), "--output_path", str(folder), *flags]
    portable = portable or kernel_library() is None
    start += ["--portable"] if portable else []
    assert main(["export", *start]) == 0
    config = ModelConfig.from_pretrained(folder)
    needed = needed_bytes(config, config.dtype, MemoryBudget("cpu", 0))
    needed += upcast_bytes(config) if portable else 0
    answer = ["infer", "--model_path", str(folder), "--tgt_length", "2"]
    leave_free(needed)
    assert main(answer) == 0
    leave_free(needed - 100_000)
    assert main(answer) == 2
    assert "a graph with" in capsys.readouterr().err


def test_what_opens_is_said_on_the_error_stream_alone(
    tiny_checkpoint, exported, caplog, capsys, tmp_path
) -> None:
    with caplog.at_level("INFO"):
        main(commands(tiny_checkpoint, tmp_path, tmp_path)["predict"])
        open_engine(exported["paddle"])
        open_engine(exported["onnx"])
        Scheduler(lambda: open_engine(tiny_checkpoint)).close()
    said = [record.getMessage() for record in caplog.records if " free)" in record.getMessage()]
    assert [line.partition(",")[0] for line in said] == [
        "chatglm2: float32 weights",
        "paddle: graph with float32 weights",
        "onnx: graph with float32 weights",
        "chatglm2: float32 weights",
    ]
    assert " free)" not in capsys.readouterr().out


def test_the_check_can_be_left_out(tiny_checkpoint, leave_free, monkeypatch) -> None:
    leave_free(1000)
    monkeypatch.setenv("PADDLE_GLM_SKIP_MEMORY_CHECK", "1")
    assert AutoModel.from_pretrained(tiny_checkpoint).dtype == "float32"
