"""Two launchers, each in namespaces of its own for the network and for processes, as on two machines."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.distributed.launch import ROOT
from tests.training.finetune_helpers import finetune, losses, max_parameter_difference, write_rows

SCRIPT = ROOT / "tools" / "finetune_generation.py"
FLAGS = """
    --do_train --max_steps 3 --save_steps 3 --logging_steps 1 --src_length 24 --tgt_length 12
    --per_device_train_batch_size 2 --learning_rate 1e-3 --disable_tqdm True --report_to none
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[list[str]]:
    """The names of two network namespaces, at 10.77.0.1 and 10.77.0.2; skipped where they cannot be made."""
    names = [f"glm{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "glma", "netns", names[0], "type", "veth", "peer", "glmb", "netns", names[1])
        for number, (name, side) in enumerate(zip(names, "ab", strict=True), start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", f"glm{side}")
            ip("-n", name, "link", "set", f"glm{side}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces: {error}")
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def run(machines, processes, logs, *words):
    """The exit codes of two launchers."""
    launchers = []
    for number, name in enumerate(machines):
        command = [
            *("ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--mount-proc", sys.executable),
            *("-m", "paddle.distributed.launch", "--nnodes", "2", "--master", "10.77.0.1:6790"),
            *("--host", f"10.77.0.{number + 1}", "--rank", str(number), "--nproc_per_node", str(processes)),
            *("--log_dir", str(logs / str(number)), str(SCRIPT), *words),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        launchers.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL))
    return [launcher.wait(300) for launcher in launchers]


@pytest.mark.parametrize(
    ("processes", "flags"),
    [
        (1, "--sharding stage2"),
        pytest.param(2, "--tensor_parallel_degree 2 --sharding stage1", marks=pytest.mark.slow),
        pytest.param(1, "--tensor_parallel_degree 2 --gradient_accumulation_steps 2", marks=pytest.mark.slow),
    ],
)
def test_the_numbers_of_one_process(machines, tiny_checkpoint, tiny_rows, tmp_path, processes, flags):
    data = write_rows(tmp_path / "rows", tiny_rows)
    folders = ("--model_name_or_path", tiny_checkpoint, "--task_name_or_path", data)
    words = [*FLAGS.split(), *map(str, folders)]
    alone, out = tmp_path / "alone", tmp_path / "out"
    assert finetune("--gradient_accumulation_steps 2", *words, "--output_dir", alone) == 0
    codes = run(machines, processes, tmp_path / "logs", *words, *flags.split(), "--output_dir", str(out))
    logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "logs").rglob("workerlog.*"))
    assert codes == [0, 0], logs
    assert "through gloo" in logs  # ranks of several machines share no memory
    assert losses(out) == pytest.approx(losses(alone), abs=1e-5)
    assert max_parameter_difference(out, alone) < 1e-5
