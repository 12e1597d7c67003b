"""`paddle-glm doctor` on a CPU, and that its checks can fail."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest

from paddle_glm.doctor import model_checks, parallel_checks, width_checks
from paddle_glm.doctor.registry import Check, Context, Finding, NotApplicable
from paddle_glm.doctor.report import line_of
from paddle_glm.doctor.runner import Worker, WorkerDied
from paddle_glm.doctor.tiny_models import tiny_config
from paddle_glm.doctor.worker import run_check
from paddle_glm.layers import attention
from paddle_glm.main import main
from paddle_glm.models.chatglm import modeling as chatglm_modeling


@pytest.mark.integration
def test_a_cpu_passes(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PADDLE_GLM_ARITHMETIC", raising=False)
    assert main(["doctor", "--device", "cpu", "--quick", "--output", str(tmp_path / "found")]) == 0
    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert report["device"] == "cpu" and report["summary"]["failed"] == 0
    checks = {one["name"]: one for one in report["checks"]}
    passed = {one["group"] for one in checks.values() if one["status"] == "passed"}
    assert passed == {"environment", "model", "quantisation", "operators", "training", "parallel", "speed"}
    for one in checks.values():  # what does not apply says why
        assert one["status"] == "passed" or one["reason"], one
    assert checks["GPUs"]["reason"] == "for GPUs"
    assert checks["2 data-parallel processes"]["reason"] == "left out by --quick"
    text = (tmp_path / "found.txt").read_text(encoding="utf-8")
    assert all(name in text for name in checks)
    printed = capsys.readouterr().out
    assert "chatglm2: answers, float32" in printed and "for GPUs" not in printed


@pytest.mark.slow
@pytest.mark.integration
def test_data_parallel_processes(tmp_path):
    found = parallel_checks.data_parallel("stage3", Context("cpu", tmp_path))
    assert found.measures and all(measure.passed for measure in found.measures)


def test_other_numbers_fail(tmp_path, monkeypatch):
    """ChatGLM3 with the rotary base of ChatGLM2: one wrong constant."""
    config = replace(
        model_checks.load(Context("cpu", tmp_path), "chatglm3", "float32").config, rope_ratio=1.0
    )
    (tmp_path / "chatglm3" / "config.json").unlink()
    config.save_pretrained(tmp_path / "chatglm3")
    check = Check("model", "x", lambda context: model_checks.answers("chatglm3", "bfloat16", context))
    result = run_check(check, Context("cpu", tmp_path))
    assert result["status"] == "failed"
    assert [one["passed"] for one in result["measures"][:2]] == [False, False]
    check = Check("model", "x", lambda context: model_checks.gradients("chatglm3", "float32", context))
    measures = run_check(check, Context("cpu", tmp_path))["measures"]
    assert not any(one["passed"] for one in measures if one["name"].startswith("gradients"))


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_a_wrong_operator_is_found(family, tmp_path, monkeypatch):
    """Without fused operators there is no difference; with another rotary embedding there is."""
    config, context = tiny_config(family), Context("cpu", tmp_path)
    found = width_checks.fused_and_plain(config, "float32", 60, context)
    assert all(measure.passed for measure in found.measures)

    @contextmanager
    def wrong_operators():
        name = "apply_rotary_halves" if family == "chatglm" else "apply_rotary_interleaved"
        module = chatglm_modeling if family == "chatglm" else attention
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda x, cos, sin: x)
            patch.setenv("PADDLE_GLM_KERNELS", "0")
            patch.setattr("paddle_glm.kernels.training.usable", lambda *tensors: False)
            patch.setattr(attention, "uses_operators", lambda: False)
            yield

    monkeypatch.setattr(width_checks, "plain_operators", wrong_operators)
    found = width_checks.fused_and_plain(config, "float32", 60, context)
    assert not any(measure.passed for measure in found.measures)


def outcome(function) -> dict:
    return run_check(Check("speed", "x", function), Context("cpu", None))


def test_how_checks_end():
    def finding(value: float, **options) -> Finding:
        found = Finding()
        found.measure("error", value, 1, **options)
        return found

    def refuse(context):
        raise NotApplicable("no card")

    assert outcome(lambda context: finding(1))["status"] == "passed"
    for value, options in ((1.1, {}), (float("nan"), {}), (0.9, {"at_least": True})):
        assert outcome(lambda context: finding(value, **options))["status"] == "failed"  # noqa: B023
    assert outcome(refuse) == {"status": "not applicable", "reason": "no card", "seconds": 0.0}
    broken = outcome(lambda context: 1 / 0)
    assert broken["status"] == "failed" and "ZeroDivisionError" in broken["reason"]
    assert line_of("x", broken).startswith("FAILED  x: ZeroDivisionError")


@pytest.mark.integration
def test_a_worker_that_ends_or_hangs_is_noticed(tmp_path):
    worker = Worker("cpu", tmp_path, False, {})
    with pytest.raises(WorkerDied, match="ended with code 1") as death:
        worker.run("no such check", 60)
    assert "KeyError" in death.value.output[-1]
    worker = Worker("cpu", tmp_path, False, {})
    with pytest.raises(WorkerDied, match="no answer within 0"):
        worker.run("2 tensor-parallel processes, float32", 0)
    with pytest.raises(WorkerDied, match="ended with code 1"):
        Worker("gpu", tmp_path, False, {"PADDLE_GLM_KERNELS": "0"})
