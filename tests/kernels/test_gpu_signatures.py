"""Calls of Paddle's GPU operators as this Paddle binds and checks them, without a GPU."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from paddle_glm.kernels.build import BuildError, find_compiler, paddle_folder


def test_paddle_takes_the_calls(tmp_path: Path) -> None:
    try:
        compiler = find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    here, paddle = Path(__file__).parent, paddle_folder()
    include = [f"-isystem{paddle / 'include'}", f"-isystem{paddle / 'include' / 'third_party'}"]
    libraries = [paddle / "base" / "libpaddle.so", *sorted((paddle / "libs").glob("libphi*.so"))]
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-O0", "-fPIC", "-shared", "-w", *include),
            *(f"-isystem{sysconfig.get_paths()['include']}", here / "gpu_signatures.cc", *libraries),
            *("-o", tmp_path / "signatures.so"),
        ],
        check=True,
    )
    program = [sys.executable, "-m", "tests.kernels.call_gpu_operators", tmp_path / "signatures.so"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "called", done.stderr
