"""Builds cpp_infer for tests, once for each set of options."""

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.paths import ROOT

INSTALL = "bash tools/setup_cpp.sh (Debian and Ubuntu: apt-get install cmake g++ make pkg-config "
INSTALL += "libsentencepiece-dev nlohmann-json3-dev)"


def run(
    *command: object, stdin: str = "", cwd: Path | None = None, **environment: object
) -> "subprocess.CompletedProcess[str]":
    """A command with its output captured as text, line ends left as they are."""
    words = [str(word) for word in command]
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    result = subprocess.run(
        words, input=stdin.encode(), cwd=cwd, env=variables, capture_output=True, timeout=600
    )
    return subprocess.CompletedProcess(
        words, result.returncode, result.stdout.decode(), result.stderr.decode(errors="replace")
    )


def checked(*command: object, stdin: str = "", cwd: Path | None = None) -> str:
    """The standard output of a command that must not fail."""
    result = run(*command, stdin=stdin, cwd=cwd)
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


# Stands for the SDK of FastDeploy where OpenVINO, which computes below it, is installed.
STANDIN = ROOT / "cpp_infer" / "tests" / "fastdeploy"


@cache
def build(name: str = "cpp", *options: str) -> Path:
    """The build folder; kept in the checkout (build/NAME), so that only what changed is compiled again."""
    tools = all(map(shutil.which, ("cmake", "g++", "make", "pkg-config")))
    if not tools or run("pkg-config", "--exists", "sentencepiece", "nlohmann_json").returncode:
        pytest.skip(f"cpp_infer cannot be built here: {INSTALL}")
    folder = ROOT / "build" / name
    if find_spec("openvino") is not None and not options:
        options = (f"-DFASTDEPLOY_INSTALL_DIR={STANDIN}",)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        checked(
            *("cmake", "-S", ROOT / "cpp_infer", "-B", folder, f"-DPADDLE_GLM_PYTHON={sys.executable}"),
            *options,
        )
        checked("cmake", "--build", folder, "--parallel", str(len(os.sched_getaffinity(0))))
    return folder
