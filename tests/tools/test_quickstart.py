"""The quick start: every step runs and leaves what the next one needs; nothing of others is removed."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from paddle_glm.errors import InputError
from tests.cpp.build import INSTALL
from tools.quickstart import cli as quickstart
from tools.quickstart import plan as quickstart_plan
from tools.quickstart.runner import format_command, run_step

slow = pytest.mark.slow
# What a method leaves under `trained`.
TRAINED = {
    "full": {"model-tp00-of-02.safetensors", "model-tp01-of-02.safetensors"},
    "lora": {"adapter_model.safetensors"},
    "ptuning": {"prefix_model.safetensors"},
}


def quick_start(out: Path, *flags: str) -> dict:
    """The summary of a quick start of two training steps; the real thing is tools/quickstart.sh."""
    short = ("--max_steps", "2", "--eval_rows", "4")
    assert quickstart.main(["--output_dir", str(out), *short, *flags]) == 0
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


FAST = [("full", None), ("lora", 4)]
CASES = [(method, bits) for method in quickstart_plan.METHODS for bits in (None, 8, 4)]


@pytest.mark.parametrize(
    ("method", "bits"), [case if case in FAST else pytest.param(*case, marks=slow) for case in CASES]
)
def test_the_whole_chain(method, bits, tmp_path, capsys):
    out = tmp_path / "run"
    summary = quick_start(out, "--method", method, *(("--quantization_bit", str(bits)) if bits else ()))
    printed = capsys.readouterr().out
    steps = [step.name for step in quickstart_plan.QuickstartPlan(out, method=method, bits=bits).steps()]
    for number, name in enumerate(steps, start=1):
        assert f"[{number}/{len(steps)}] {name}: " in printed
    assert "step    2  loss" in printed and "答：" in printed
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (out / "trained").glob("*.safetensors")} == TRAINED[method]
    assert (summary["method"], summary["quantization_bit"]) == (method, bits)
    if method != "ptuning":  # two steps of a prefix may do harm yet
        assert summary["after"]["loss"] < summary["before"]["loss"]
    if method == "full" and bits:
        assert summary[f"after_int{bits}"]["loss"] == pytest.approx(summary["after"]["loss"], rel=0.05)
    if "left_out" in summary["cpp"]:
        pytest.skip(f"the chain ran without its C++ end: {INSTALL}")
    assert list(summary["seconds"]) == steps
    assert summary["cpp"] == {"equal_answers": 3} and "all 3 answers are equal" in printed
    assert len((out / quickstart_plan.CPP_ANSWERS).read_text(encoding="utf-8").splitlines()) == 3


def test_the_links_of_each_method(tmp_path):
    """Where adapters are trained a base comes first; what is exported is the last thing scored."""

    def names(method, bits=None):
        return [
            step.name for step in quickstart_plan.QuickstartPlan(tmp_path, method=method, bits=bits).steps()
        ]

    end = ["export", "infer", "setup_cpp", "build_cpp", "cpp"]
    full = ["tiny", "before", "finetune", "plot", "merge", "after"]
    assert names("full") == [*full, *end]
    assert names("full", 8) == [*full, "quantize", "after_int8", *end]
    adapted = ["before", "finetune", "plot", "after"]
    assert names("lora") == ["tiny", "base", "merge", *adapted, "merge_lora", *end]
    for method in ("lora", "ptuning"):
        assert names(method, 4) == ["tiny", "base", "merge", "quantize", *adapted, *end]
    for method, bits, given in (
        ("full", 8, "merged_int8"),
        ("lora", None, "merged"),
        ("ptuning", 4, "base_int4"),
    ):
        result = quickstart_plan.QuickstartPlan(tmp_path, method=method, bits=bits).model_flags
        assert result[:2] == ["--model_name_or_path", str(tmp_path / given)]
        assert ("--ptuning_checkpoint" in result) == (method == "ptuning")


def test_without_the_packages_for_cpp_it_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    quickstart.recreate_output_dir(tmp_path / "run")
    command = "echo 'error: cpp_infer needs packages (apt-get install cmake)' >&2; exit 2"
    steps = [
        quickstart_plan.QuickstartStep("infer", "answers", ["true"]),
        quickstart_plan.QuickstartStep("setup_cpp", "installs", ["bash", "-c", command], optional=True),
        quickstart_plan.QuickstartStep("cpp", "never runs", ["false"]),
    ]
    monkeypatch.setattr(quickstart_plan.QuickstartPlan, "steps", lambda self: steps)
    seconds, left_out = quickstart.run_plan(quickstart_plan.QuickstartPlan(tmp_path / "run"))
    assert list(seconds) == ["infer"] and left_out.startswith("cpp left out: setup_cpp failed")
    assert "(apt-get install cmake)" in left_out and "(apt-get install cmake)" in capsys.readouterr().out


def test_answers_that_differ_are_an_error(tmp_path, capsys):
    plan = quickstart_plan.QuickstartPlan(tmp_path / "run")
    quickstart.recreate_output_dir(plan.output)
    for name, answer in ((quickstart_plan.PYTHON_ANSWERS, "好"), (quickstart_plan.CPP_ANSWERS, "坏")):
        rows = [{"src": "一", "output": "同"}, {"src": "二", "output": answer}]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        Path(plan.path(name)).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"answers 1 of 2 questions otherwise than Python: 二"):
        quickstart.compare_answers(plan)
    shutil.copy(plan.path(quickstart_plan.PYTHON_ANSWERS), plan.path(quickstart_plan.CPP_ANSWERS))
    assert quickstart.compare_answers(plan) == 2
    assert "C++：   好" in capsys.readouterr().out


def test_only_its_own_folder_is_made_anew(tmp_path):
    mine = tmp_path / "mine"
    quickstart.recreate_output_dir(mine)
    (mine / "old").touch()
    quickstart.recreate_output_dir(mine)
    assert not (mine / "old").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(InputError, match="was not made by a quick start"):
        quickstart.recreate_output_dir(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").exists()


def test_a_failing_link_shows_the_end_of_its_log(tmp_path, capfd):
    quickstart.recreate_output_dir(tmp_path / "run")
    code = "import sys; print('hello'); sys.stderr.write('line\\n' * 50 + 'the reason'); sys.exit(3)"
    step = quickstart_plan.QuickstartStep("merge", "fails", [sys.executable, "-c", code])
    with pytest.raises(InputError, match=r"(?s)merge failed with exit code 3.*the reason") as failure:
        run_step(step, tmp_path / "run")
    assert str(failure.value).count("line") == 14
    assert "  hello\n" in capfd.readouterr().out


def test_data_that_is_not_there(tmp_path, capsys):
    assert quickstart.main(["--output_dir", str(tmp_path / "run"), "--data", "nowhere"]) == 2
    assert "--data nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_commands_are_shown_as_typed_in_the_checkout():
    words = [str(quickstart_plan.ROOT / "tools" / "x.py"), "--prompt", "a b", str(Path("/elsewhere"))]
    assert format_command(words) == "tools/x.py --prompt 'a b' /elsewhere"
