"""The Dockerfile: what it copies exists, and what it starts is understood. No docker is needed."""

import argparse
import json
import re
import subprocess

import pytest

from paddle_glm.commands import serve
from tests.paths import ROOT

TEXT = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
LINES = [line.split(None, 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
STAGES = re.findall(r"^FROM (\S+) AS (\w+)$", TEXT, re.M)
TARGETS = ("cpu", "gpu", "cpp")


def entrypoints() -> list[list[str]]:
    return [json.loads(value) for name, value in LINES if name == "ENTRYPOINT"]


def test_stages_follow_from_one_another():
    known = ["debian:bookworm-slim"]
    for base, name in STAGES:
        assert base in known, f"stage {name} is built from {base}"
        known.append(name)
    assert set(TARGETS) <= set(known)
    assert set(re.findall(r"--from=(\S+)", TEXT)) <= set(known)
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    assert set(re.findall(r"docker build --target (\w+)", page)) == set(TARGETS)


def test_images_hold_what_they_need_and_no_more():
    rules = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    scripts = re.findall(r"bash (\S+\.sh)", TEXT)
    assert scripts and all((ROOT / script).exists() for script in scripts)
    read = {"setup.py", "pyproject.toml", "constraints.txt", "README.md", "paddle_glm", "tools", "cpp_infer"}
    assert read <= set(kept)
    assert not {"tests", "docs", ".git", ".venv"} & set(kept)


def test_servers_are_not_root_listen_and_are_checked():
    for stage in ("served", "cpp"):
        body = TEXT[TEXT.index(f" AS {stage}\n") :].partition("\nFROM ")[0]
        for word in ("\nUSER 10001", "\nEXPOSE 8000", "\nHEALTHCHECK", "\nENTRYPOINT"):
            assert word in body, f"{stage} has no{word}"
        assert "8000/health" in body or "GET /health" in body


def test_flags_of_the_servers_exist():
    python, cpp = entrypoints()
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    assert python[:2] == ["/app/.venv/bin/paddle-glm", "serve"]
    assert parser.parse_args(python[2:]).host == "0.0.0.0"
    assert cpp[0] == "/opt/paddle_glm/bin/paddle_glm_infer"
    table = (ROOT / "cpp_infer" / "src" / "options.cc").read_text("utf-8")
    flags = [word for word in cpp if word.startswith("--")]
    assert flags == ["--model_dir", "--serve", "--host"]
    assert all(f'{{"{flag}"' in table for flag in flags)


@pytest.mark.integration
def test_shell_steps_parse():
    for name, value in LINES:
        if name == "RUN":
            subprocess.run(["bash", "-n", "-c", value], check=True)
