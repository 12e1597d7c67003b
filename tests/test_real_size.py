"""Opening a model needs at most 1.15 times the memory that stays."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddle_glm.main import main
from paddle_glm.memory import OPENING_PEAK
from paddle_glm.tiny.released import RELEASED
from tests.paths import ROOT

# 214 MB in float16, of which embedding and head have 33 MB each.
SMALL = {
    **{"num_layers": 4, "hidden_size": 1024, "num_attention_heads": 16, "multi_query_group_num": 4},
    **{"kv_channels": 64, "ffn_hidden_size": 5120, "padded_vocab_size": 16384},
}
# Kind -> the folder, and the flags with which it is opened.
KINDS: dict[str, tuple[str, dict[str, int]]] = {
    "int4": ("int4", {}),
    "int8": ("int8", {}),
    "float16": ("float16", {}),
    "float16 as int4": ("float16", {"quantization_bit": 4}),
    "float16 as int8": ("float16", {"quantization_bit": 8}),
}
# Prints bytes: memory before, the peak, and what stays; and seconds.
MEASURED = """
import gc, json, re, sys, time
from pathlib import Path

def memory(key):
    return 1024 * int(re.search(rf"{{key}}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

{before}
before, started = memory("VmRSS"), time.perf_counter()
{code}
seconds = time.perf_counter() - started
print(json.dumps({{"before": before, "peak": memory("VmHWM"), "stays": memory("VmRSS"), "seconds": seconds}}))
"""
DYGRAPH = """
import paddle
from paddle_glm.models.auto import AutoModel
paddle.ones([10]).sum()
"""
OPEN = "model = AutoModel.from_pretrained(sys.argv[1], dtype='float16', **json.loads(sys.argv[2]))"
INFERENCE = """
from paddle_glm.backends import EngineOptions
from paddle_glm.backends.folder import open_engine
"""
OPEN_GRAPH = "engine = open_engine(sys.argv[1], EngineOptions(device='cpu'))"
EXPORT = """
from paddle_glm.main import main
words = ["--model_name_or_path", sys.argv[1], "--output_path", sys.argv[2], "--dtype", "float16"]
assert main(["export", *words]) == 0
"""


def measured(before: str, code: str, *words: object) -> dict[str, float]:
    """What `MEASURED` prints, of a process of its own."""
    program = MEASURED.format(before=before, code=code)
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def weights_of(folder: Path) -> int:
    """Bytes of a model's weights on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def like(folder: Path, *flags: str) -> Path:
    """A folder of `paddle-glm tiny --like chatglm2-6b`."""
    rows = ["--train_rows", "60", "--dev_rows", "5", "--vocab_size", "400"]
    assert main(["tiny", "--output_dir", str(folder), "--like", "chatglm2-6b", *rows, *flags]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    parent = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RELEASED, "chatglm2-6b", {**RELEASED["chatglm2-6b"], **SMALL})
        folders = {"float16": like(parent / "float16")}
        for bits in (4, 8):
            folders[f"int{bits}"] = like(parent / f"int{bits}", "--quantization_bit", str(bits))
    yield folders
    shutil.rmtree(parent)


@pytest.mark.parametrize("kind", KINDS)
def test_opening_needs_what_stays(small, kind):
    folder, flags = KINDS[kind]
    found = measured(DYGRAPH, OPEN, small[folder], json.dumps(flags))
    bits = flags.get("quantization_bit")
    model = weights_of(small[f"int{bits}" if bits else folder])
    stays, peak = found["stays"] - found["before"], found["peak"] - found["before"]
    assert stays > model - 10e6, "the opening was not seen"
    assert peak < OPENING_PEAK * stays, f"{peak / 1e6:.0f} MB, {stays / 1e6:.0f} stay"
    assert stays < model + 20e6, "more than the weights stays"


@pytest.mark.parametrize("kind", ["int4", "float16"])
def test_exporting_and_opening_the_graph(small, tmp_path, kind):
    """Weights are neither held twice nor widened; a graph and its compiler take some memory beside them."""
    model = weights_of(small[kind])
    exporting = measured(DYGRAPH, EXPORT, small[kind], tmp_path / "exported")
    assert model < exporting["peak"] - exporting["before"] < OPENING_PEAK * model + 60e6
    opened = measured(INFERENCE, OPEN_GRAPH, tmp_path / "exported")
    assert opened["stays"] > model
    assert opened["peak"] < OPENING_PEAK * opened["stays"]
    assert opened["stays"] < opened["before"] + model + 300e6
