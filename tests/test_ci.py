"""What runs on GitHub and before a commit is what tools/test.sh runs."""

import re

import yaml

from tests.paths import ROOT


def test_the_workflow_runs_the_script_on_a_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == ".ci/run"
    assert "tools/test.sh" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    [setup] = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert job["env"]["PYTHON"] == f"python{setup['python-version']}"
    assert job["env"]["PYTHON"] in (ROOT / "tools" / "setup_env.sh").read_text(encoding="utf-8")
    for path in setup["cache-dependency-path"].split():
        assert (ROOT / path).is_file()


def test_hooks_are_the_steps_of_the_script() -> None:
    """But for flags of the hooks' own, and clang-format, which tests/cpp checks."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    script = (ROOT / "tools" / "test.sh").read_text(encoding="utf-8")
    steps = {
        re.sub(r'"\$bin/(\w+)"', r"\1", step) for step in re.findall(r"^step (.*)$", script, re.MULTILINE)
    }
    steps = {re.sub(r" (--check|\.)(?= |$)", "", step) for step in steps}
    hooks = {hook["entry"].removeprefix(".venv/bin/") for hook in config["repos"][0]["hooks"]}
    assert {hook.removesuffix(" --force-exclude") for hook in hooks} - {"clang-format -i"} == steps
