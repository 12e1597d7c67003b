"""tools/setup_cpp.sh and tools/build_cpp.sh, on machines that lack things."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cpp.build import build, run
from tests.paths import ROOT

PACKAGES = "cmake g++ make pkg-config libsentencepiece-dev nlohmann-json3-dev"
TOOLS = ("cmake", "g++", "make", "pkg-config")


@pytest.fixture
def machine(tmp_path) -> Path:
    """The folder of all programs of a bare machine with Python's shared library: no compiler, no cmake."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "cat", "chmod"):
        (programs / name).symlink_to(shutil.which(name))
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup_cpp.sh", tmp_path / "tools")
    return programs


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n", "utf-8")
    (folder / name).chmod(0o755)


def setup(machine: Path) -> "subprocess.CompletedProcess[str]":
    return run(machine / "bash", machine.parent / "tools" / "setup_cpp.sh", PATH=machine)


def test_who_is_not_root_is_told_what_is_missing(machine):
    program(machine, "id", "echo 1000")
    program(machine, "apt-get", "echo called >&2")
    result = setup(machine)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"apt-get install {PACKAGES}" in result.stderr


def test_another_system_is_told_what_is_missing(machine):
    program(machine, "id", "echo 0")
    result = setup(machine)
    assert result.returncode == 2 and PACKAGES in result.stderr


def test_root_gets_the_packages_once(machine):
    program(machine, "id", "echo 0")
    made = "\n".join(f"echo exit 0 > {machine}/{tool}; chmod +x {machine}/{tool}" for tool in TOOLS)
    program(machine, "apt-get", f'echo "$@" >> {machine}/log\n[ "$1" = update ] && exit 0\n{made}')
    assert setup(machine).returncode == 0
    log = (machine / "log").read_text("utf-8")
    assert log.startswith("update") and PACKAGES in log
    assert setup(machine).returncode == 0  # all is there now
    assert (machine / "log").read_text("utf-8") == log


def test_the_server_is_left_out_where_its_library_is_not_to_be_had(machine):
    for name in TOOLS:
        program(machine, name, '[ "$2" != cpp-httplib ]')  # pkg-config --exists
    program(machine, "id", "echo 1000")
    result = setup(machine)
    assert result.returncode == 0 and "libcpp-httplib-dev is not there" in result.stderr
    program(machine, "id", "echo 0")
    program(machine, "apt-get", '[ "$1" = update ]')
    result = setup(machine)
    assert result.returncode == 0 and "built without --serve" in result.stderr


def test_packages_that_do_not_come_are_an_error(machine):
    program(machine, "id", "echo 0")
    program(machine, "apt-get", "exit 100")
    result = setup(machine)
    assert result.returncode == 2 and "apt-get did not bring" in result.stderr


def test_the_program_is_built_by_one_command():
    build()  # skips where it cannot be
    result = run("bash", ROOT / "tools" / "build_cpp.sh", "-DFASTDEPLOY_INSTALL_DIR=/nowhere")
    assert result.returncode == 2 and "/nowhere has no FastDeploy.cmake" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: the C++ program could not be built")
    result = run("bash", ROOT / "tools" / "build_cpp.sh")  # the option is forgotten
    assert result.returncode == 0, result.stderr
    path = ROOT / "cpp_infer" / "build" / "paddle_glm_infer"
    assert result.stdout.splitlines()[-1] == str(path)
    assert "--model_dir" in run(path, "--help").stdout


@pytest.mark.parametrize(
    "page",
    [ROOT / "cpp_infer" / "README.md", *ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")],
    ids=lambda page: page.name,
)
def test_documented_flags_exist(page):
    known = run(build() / "paddle_glm_infer", "--help").stdout
    for line in re.findall(r"^\S*paddle_glm_infer .*$", page.read_text("utf-8"), re.M):
        for flag in re.findall(r"--\w+", line):
            assert f"  {flag} " in known or f"  {flag}\n" in known, f"{page.name}: {flag}"
