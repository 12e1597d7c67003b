"""MKL's instructions: which value which processor gets, and that Paddle computes with it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddle_glm.mkl import (
    AVX2,
    AVX2_FLAGS,
    AVX512,
    AVX512_FLAGS,
    CPUINFO,
    USER_VARIABLES,
    VARIABLE,
    choose_instructions,
    instruction_set,
)

SIZE = 256
PRODUCT = f"""
import sys
import numpy as np
rng = np.random.default_rng(0)
factors = [paddle.to_tensor(rng.standard_normal(({SIZE}, {SIZE}), dtype=np.float32)) for _ in "ab"]
for _ in range(2):
    product = paddle.matmul(*factors).numpy()
sys.stdout.buffer.write(product.tobytes())
"""


def cpuinfo(folder: Path, vendor: str, flags: frozenset[str]) -> Path:
    path = folder / "cpuinfo"
    path.write_text(
        f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {' '.join(flags)}\n\nprocessor\t: 1\n"
    )
    return path


@pytest.mark.parametrize(
    ("vendor", "flags", "value"),
    [
        ("AuthenticAMD", AVX512_FLAGS, AVX512),
        ("AuthenticAMD", AVX2_FLAGS, AVX2),
        ("AuthenticAMD", AVX2_FLAGS | {"avx512f"}, AVX2),
        ("AuthenticAMD", AVX2_FLAGS - {"fma"}, None),
        ("GenuineIntel", AVX512_FLAGS, None),
        ("GenuineIntel", AVX2_FLAGS, None),
    ],
)
def test_the_value_follows_from_the_processor(
    tmp_path: Path, vendor: str, flags: frozenset[str], value: str | None
) -> None:
    environment: dict[str, str] = {}
    choose_instructions(environment, cpuinfo(tmp_path, vendor, flags))
    assert environment == ({} if value is None else {VARIABLE: value})


@pytest.mark.parametrize("name", USER_VARIABLES)
@pytest.mark.parametrize("value", ["", "AVX2"])
def test_a_user_s_choice_stays(tmp_path: Path, name: str, value: str) -> None:
    environment = {name: value}
    choose_instructions(environment, cpuinfo(tmp_path, "AuthenticAMD", AVX512_FLAGS))
    assert environment == {name: value}


def test_a_system_without_cpuinfo(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    choose_instructions(environment, tmp_path / "cpuinfo")
    assert environment == {}


def python(program: str, **variables: str) -> bytes:
    kept = {name: value for name, value in os.environ.items() if name not in USER_VARIABLES}
    words = [sys.executable, "-W", "ignore", "-c", program]
    return subprocess.run(words, env={**kept, **variables}, capture_output=True, check=True).stdout


def product(imports: str, **variables: str) -> bytes:
    return python(imports + PRODUCT, **variables)


@pytest.mark.integration
def test_paddle_computes_with_the_value() -> None:
    """Products of other instructions differ in their last bits, and all are as exact as float32 can be."""
    chosen = instruction_set(CPUINFO)
    expected = product("import paddle", **({} if chosen is None else {VARIABLE: chosen}))
    assert product("import paddle_glm, paddle") == expected
    assert product("import paddle, paddle_glm") == expected  # read when Paddle first computes
    untouched = product("import paddle_glm, paddle", **{VARIABLE: ""})
    assert untouched == product("import paddle")
    assert (untouched == expected) == (chosen is None)
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((SIZE, SIZE), dtype=np.float32).astype(np.float64) for _ in "ab")
    exact = left @ right
    for result in (expected, untouched):
        error = np.frombuffer(result, np.float32).reshape(exact.shape) - exact
        assert np.abs(error).max() < 1e-6 * np.abs(exact).max()


@pytest.mark.integration
def test_processes_inherit_the_value() -> None:
    program = f"import os, paddle_glm; print(os.environ.get({VARIABLE!r}))"
    assert python(program).decode().strip() == str(instruction_set(CPUINFO))
    assert python(program, **{VARIABLE: "4"}).decode().strip() == "4"
