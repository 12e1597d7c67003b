"""What many tests start from: a few rows and a very small model, made here."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy.testing  # noqa: F401 - runs lscpu when first imported
import pytest

from paddle_glm.tiny.checkpoint import write_checkpoint
from paddle_glm.tiny.grammar import Row, make_rows

# Tests compare with direct computations, in this process and in those that it starts; what products with
# activations rounded to int8 change has tests of its own (tests/kernels/test_arithmetic.py).
os.environ["PADDLE_GLM_ARITHMETIC"] = "float32"

# Folders and files whose tests start processes, build C++, train or export; single tests carry the marker.
# Left out by `tools/test.sh --fast`.
INTEGRATION = (
    "backends/test_engines.py",
    "checkpoint/test_crashes.py",
    "checkpoint/test_fuzz.py",
    "checkpoint/test_loading_memory.py",
    "checkpoint/test_paddlenlp.py",
    "commands",
    "cpp",
    "distributed",
    "kernels",
    "machines",
    "models/test_toy_family.py",
    "peft/test_finetune.py",
    "peft/test_quantized_base.py",
    "quantization/test_loading_memory.py",
    "serving/test_adapters.py",
    "serving/test_browser_gradio.py",
    "serving/test_browser_streamlit.py",
    "serving/test_chat.py",
    "serving/test_clients.py",
    "serving/test_docs.py",
    "serving/test_server.py",
    "serving/test_web.py",
    "test_examples.py",
    "test_export.py",
    "test_export_onnx.py",
    "test_export_targets.py",
    "test_export_operators.py",
    "test_export_quantized.py",
    "test_hub.py",
    "test_notebooks.py",
    "test_pages.py",
    "test_real_size.py",
    "tools/test_build_fastdeploy.py",
    "tools/test_quickstart.py",
    "training/test_finetune.py",
    "training/test_kills.py",
    "training/test_output_dir.py",
    "training/test_resume.py",
    "training/test_save_format.py",
)


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of INTEGRATION, and put them first: a long file must not be the last one to start."""
    folders = [Path(__file__).parent / name for name in INTEGRATION]
    for item in items:
        if any(folder == item.path or folder in item.path.parents for folder in folders):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: item.get_closest_marker("integration") is None)


# What one process of pytest-xdist runs, where that is not one file: users of one build folder of C++, and
# launches of several processes, which would crowd each other and race for free ports.
GROUPS = {
    "tests/cpp/": "cpp",
    "tests/tools/test_quickstart.py": "cpp",
    "tests/test_real_size.py": "cpp",
    "tests/distributed/": "distributed",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            groups = [group for start, group in GROUPS.items() if nodeid.startswith(start)]
            return groups[0] if groups else super()._split_scope(nodeid)

    return Scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    """Load the native kernels before any test refuses to start the compiler."""
    from paddle_glm.kernels.library import kernel_library

    kernel_library()


@pytest.fixture
def plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training by Paddle's own operators, as on a GPU or without a compiler."""
    from paddle_glm.kernels import training

    monkeypatch.setattr(training, "usable", lambda *tensors: False)


@pytest.fixture
def blockwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention by blocks of queries for rows of any length, and several blocks in short ones."""
    from paddle_glm.layers import attention, blockwise_attention

    monkeypatch.setattr(attention, "BLOCKWISE_TOKENS", 1)
    monkeypatch.setattr(blockwise_attention, "MIN_QUERIES", 3)


@pytest.fixture(autouse=True)
def refuse_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts a process must be marked, or `--fast` would become slow."""

    def refuse(self: object, *words: object, **options: object) -> NoReturn:
        pytest.fail(f"starts a process ({words[0]}): add it to INTEGRATION in conftest.py or mark it")

    if request.node.get_closest_marker("integration") is None:
        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(autouse=True)
def reset_paddle() -> Iterator[None]:
    """Each test begins as a process of its own would: bits depend on the number of threads, and training on
    a CPU turns strided views off."""
    yield
    if (paddle := sys.modules.get("paddle")) is not None:
        paddle.base.core.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
        paddle.set_flags({"FLAGS_use_stride_kernel": True})


@pytest.fixture(scope="session")
def tiny_rows() -> list[Row]:
    """60 rows with `content` and `summary`."""
    return make_rows(60)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ChatGLM2 folder: 2 layers, hidden size 64, 4 heads in 2 groups, 520 words. Do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "chatglm2"
    texts = [text for row in tiny_rows for text in row.values()]
    write_checkpoint(folder, texts, vocab_size=512, num_layers=2, hidden_size=64, ffn_hidden_size=96)
    return folder
