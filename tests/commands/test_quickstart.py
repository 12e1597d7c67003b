"""The quick start: every link runs and leaves what the next one needs; nothing of others is removed."""

import json
import sys
from pathlib import Path

import pytest

from paddle_glm.commands import quickstart
from paddle_glm.errors import InputError
from paddle_glm.main import main


def test_the_whole_chain(tmp_path, capsys):
    """Two training steps; the real thing is tools/quickstart.sh."""
    out = tmp_path / "run"
    assert main(["quickstart", "--output_dir", str(out), "--max_steps", "2", "--eval_rows", "4"]) == 0
    printed = capsys.readouterr().out
    for number, name in enumerate(quickstart.LINKS, start=1):
        assert f"[{number}/8] {name}: " in printed
    assert "step    2  loss" in printed and "答：" in printed
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert list(summary["seconds"]) == list(quickstart.LINKS)
    assert summary["after"]["loss"] < summary["before"]["loss"]
    shards = {path.name for path in (out / "trained").glob("*.safetensors")}
    assert shards == {"model-tp00-of-02.safetensors", "model-tp01-of-02.safetensors"}


def test_only_its_own_folder_is_made_anew(tmp_path):
    mine = tmp_path / "mine"
    quickstart.make_anew(mine)
    (mine / "old").touch()
    quickstart.make_anew(mine)
    assert not (mine / "old").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(InputError, match="was not made by a quick start"):
        quickstart.make_anew(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_a_failing_link_shows_the_end_of_its_log(tmp_path, capfd):
    quickstart.make_anew(tmp_path / "run")
    code = "import sys; print('hello'); sys.stderr.write('line\\n' * 50 + 'the reason'); sys.exit(3)"
    link = quickstart.Link("fails", [sys.executable, "-c", code])
    with pytest.raises(InputError, match=r"(?s)merge failed with exit code 3.*the reason") as failure:
        quickstart.run_link("merge", link, tmp_path / "run")
    assert str(failure.value).count("line") == 14
    assert "  hello\n" in capfd.readouterr().out


def test_data_that_is_not_there(tmp_path, capsys):
    assert main(["quickstart", "--output_dir", str(tmp_path / "run"), "--data", "nowhere"]) == 2
    assert "--data nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_commands_are_shown_as_typed_in_the_checkout():
    words = [str(quickstart.ROOT / "tools" / "x.py"), "--prompt", "a b", str(Path("/elsewhere"))]
    assert quickstart.shown(words) == "tools/x.py --prompt 'a b' /elsewhere"
