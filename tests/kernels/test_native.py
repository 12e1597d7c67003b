"""The kernels without Paddle (native/*.cc), under sanitizers, one instruction set after the other."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paddle_glm.kernels.build import SOURCES, BuildError, find_compiler, isa_flags, isa_suffix, sources

NATIVE = Path(__file__).parent / "native"
X86 = platform.machine() == "x86_64"
# Threads wait asleep: more of them than processors would spend their time waiting.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
SANITIZERS = {
    "address": (
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fopenmp",
        "-DPADDLE_GLM_EMULATE_AMX",
    ),
    "thread": ("-fsanitize=thread", "-fopenmp-simd", "-DPADDLE_GLM_STD_THREADS", "-DPADDLE_GLM_EMULATE_AMX"),
}


def compiler() -> str:
    try:
        return find_compiler()
    except BuildError as error:
        pytest.skip(str(error))


def build_program(folder: Path, command: str, machine: str, flags: tuple[str, ...]) -> Path:
    """The test program of an architecture, its kernels compiled with `flags`."""
    # GCC 12 finds uninitialised variables in its own vector intrinsics.
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
    common = ["-std=c++17", "-g", *warnings, f"-I{SOURCES}", f"-I{NATIVE}"]

    def compile_source(source: Path) -> str:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        # The tests' own loops are not instrumented.
        own = ("-O2",) if source.parent == NATIVE else ("-O1", *flags, *isa_flags(source))
        run([command, *common, *own, "-c", str(source), "-o", str(target)])
        return str(target)

    kernels = [one for one in sources(machine) if not one.name.startswith("operators")]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_source, [*kernels, *NATIVE.glob("*.cc")]))
    program = folder / "native"
    run([command, *flags, *objects, "-o", str(program)])
    return program


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    return result.stdout


def x86_levels() -> list[str]:
    """The instruction sets of this processor, from the kernel's list."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = set(next(line for line in lines if line.startswith("flags")).split())
    needs = {
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
        "avx512_bf16": {"avx512_bf16"},
        "amx": set(),  # emulated where the processor has none
    }
    levels = ["portable"]
    for level, flags in needs.items():
        if not flags <= found:
            break
        levels.append(level)
    return levels


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_under_sanitizer(sanitizer: str, tmp_path: Path) -> None:
    program = build_program(tmp_path, compiler(), platform.machine(), SANITIZERS[sanitizer])
    output = run([str(program)])
    assert output.endswith("0 checks failed\n")
    if X86:
        assert [line.split(":")[0] for line in output.splitlines()[:-1]] == x86_levels()


def test_arm(tmp_path: Path) -> None:
    command, emulator = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
    if not shutil.which(command) or not shutil.which(emulator):
        pytest.skip("no Arm compiler or emulator: apt-get install g++-aarch64-linux-gnu qemu-user-static")
    program = build_program(
        tmp_path, command, "aarch64", ("-fopenmp-simd", "-DPADDLE_GLM_STD_THREADS", "-static")
    )
    for processor, levels in (("max", ["portable", "neon"]), ("cortex-a53", ["portable"])):
        output = run([emulator, "-cpu", processor, str(program)])
        assert output.endswith("0 checks failed\n")
        assert [line.split(":")[0] for line in output.splitlines()[:-1]] == levels


def test_instruction_sets_share_no_functions(tmp_path: Path) -> None:
    """The linker keeps one copy of an inline function: it must not be one for a newer processor."""
    for source in sources():
        if not isa_suffix(source):
            continue
        target = tmp_path / f"{source.stem}.o"
        run([compiler(), "-std=c++17", "-O3", *isa_flags(source), "-c", str(source), "-o", str(target)])
        symbols = run(["nm", "--demangle", "--defined-only", str(target)]).splitlines()
        assert [symbol for symbol in symbols if symbol.split(maxsplit=2)[1] in "uvVwW"] == []
