"""The examples of docs/serving.md, against a server."""

import json
import re
import shlex
import shutil
import subprocess

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^curl .*?(?<!\\)$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")
@pytest.mark.parametrize("example", CURLS)
def test_curl(server, example):
    words = shlex.split(example.replace("\\\n", " ").replace("http://127.0.0.1:8000", server))
    done = subprocess.run([*words, "-sS", "--fail"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if "-N" in words:
        assert done.stdout.endswith("data: [DONE]\n\n")
    else:
        assert {"choices", "response"} & set(json.loads(done.stdout))


def test_there_are_examples():
    assert len(CURLS) == 3
