"""Compile the native kernels once per version of sources, Paddle and compiler, and keep the library.

The library holds code for all instruction sets of the architecture and chooses at run time.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from paddle_glm.system import usable_cpus

SOURCES = Path(__file__).parent / "csrc"
LIBRARY_NAME = "libpaddle_glm_kernels.so"

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
_AVX512_BF16 = (*_AVX512, "-mavx512bf16")
# Flags of files by the end of their names: everything else must run on any processor of the architecture.
_ISA_FLAGS = {
    "_avx2": _AVX2,
    "_avx512": _AVX512,
    "_avx512_bf16": _AVX512_BF16,
    "_amx": (*_AVX512_BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    "_neon": ("-march=armv8.2-a+dotprod+fp16",),
}
_X86, _ARM = ("_avx2", "_avx512", "_avx512_bf16", "_amx"), ("_neon",)
_COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno")


class BuildError(Exception):
    """The compiler is missing or failed; the message says which and why."""


def isa_suffix(source: Path) -> str:
    """The end of a source's name that names its instruction set; "" for none."""
    return max((suffix for suffix in _ISA_FLAGS if source.stem.endswith(suffix)), key=len, default="")


def sources() -> list[Path]:
    """The sources of this machine's architecture, slowest to compile first."""
    excluded = _ARM if platform.machine().lower() in ("x86_64", "amd64") else _X86
    found = [one for one in sorted(SOURCES.glob("*.cc")) if isa_suffix(one) not in excluded]
    return sorted(found, key=lambda one: not one.name.startswith("operators"))


def paddle_folder() -> Path:
    """The folder of the installed paddle package, which is not imported."""
    spec = find_spec("paddle")
    if spec is None or spec.origin is None:
        raise BuildError("paddle is not installed")
    return Path(spec.origin).parent


def find_compiler() -> str:
    """The C++ compiler: CXX, or g++ or clang++ on the PATH. Raises `BuildError`."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    raise BuildError("no C++ compiler (Debian and Ubuntu: apt-get install g++)")


def cache_folder() -> Path:
    """Where built libraries are kept: PADDLE_GLM_CACHE, else paddle_glm in the user's cache folder."""
    if set_folder := os.environ.get("PADDLE_GLM_CACHE"):
        return Path(set_folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paddle_glm"


def fingerprint(compiler: str) -> str:
    """Hash of what a library depends on."""
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    paddle_version = (paddle_folder() / "version" / "__init__.py").read_bytes()
    python = sysconfig.get_python_version()
    for part in (version.encode(), paddle_version, python.encode(), platform.machine().encode()):
        digest.update(part)
    for path in sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"), Path(__file__)]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def library_path() -> Path:
    """Where the library of these sources is, or will be built. Raises `BuildError`."""
    return cache_folder() / f"kernels-{fingerprint(find_compiler())}" / LIBRARY_NAME


def build(target: Path) -> None:
    """Compile the library into `target`, atomically. Raises `BuildError`."""
    compiler = find_compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        with ThreadPoolExecutor(usable_cpus()) as pool:
            objects = list(pool.map(lambda one: _compile(compiler, one, Path(scratch)), sources()))
        library = Path(scratch) / LIBRARY_NAME
        _run([compiler, "-shared", "-o", str(library), *map(str, objects), *_link_flags()])
        os.replace(library, target)


def _compile(compiler: str, source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.o"
    flags = [*_COMMON_FLAGS, *_ISA_FLAGS.get(isa_suffix(source), ())]
    if source.name.startswith("operators"):
        include = paddle_folder() / "include"
        python = sysconfig.get_paths()["include"]
        # Paddle's headers are compiled into templates that its own libraries resolve at run time.
        flags += [f"-isystem{include}", f"-isystem{include / 'third_party'}", f"-isystem{python}"]
        flags += ["-O2", "-DPADDLE_WITH_CUSTOM_KERNEL", "-w"]
    _run([compiler, *flags, "-c", str(source), "-o", str(target)])
    return target


def _link_flags() -> list[str]:
    base, libs = paddle_folder() / "base", paddle_folder() / "libs"
    # libiomp5 is Paddle's OpenMP runtime: with it a process has one pool of threads.
    found = [
        folder / name
        for folder, name in (
            (base, "libpaddle.so"),
            (libs, "libphi_core.so"),
            (libs, "libphi.so"),
            (libs, "libiomp5.so"),
        )
    ]
    return [*(str(one) for one in found if one.exists()), f"-Wl,-rpath,{base}", f"-Wl,-rpath,{libs}"]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stderr[-4000:]}")
