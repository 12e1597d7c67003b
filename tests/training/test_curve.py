"""Loss curves from logs: the numbers, the picture, what cannot be read."""

import json
from pathlib import Path

import pytest

from paddle_glm.errors import InputError
from paddle_glm.main import main
from paddle_glm.training import loss_curve


@pytest.fixture
def run(tmp_path) -> Path:
    records = [{"step": step, "loss": 8 - step / 50} for step in range(10, 310, 10)]
    records.append({"step": 300, "eval_loss": 2.5})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / loss_curve.LOG_FILE).write_text(
        lines + '{"step": 31', encoding="utf-8"
    )  # a line being written
    return tmp_path


def test_the_log_is_where_the_trainer_writes_it():
    from paddle_glm.training.callbacks import LOG_FILE

    assert loss_curve.LOG_FILE == LOG_FILE


def test_numbers(run):
    read = loss_curve.read_loss_curve(run)
    assert len(read.train) == 30 and read.evaluation == ((300, 2.5),)
    assert read.summary(3) == "loss 10:7.800  150:5.000  300:2.000"
    assert loss_curve.LossCurve(((1, 2.0),), ()).summary() == "loss 1:2.000"


def test_picture(run, capsys):
    assert (
        main(["plot", "--log", str(run), "--output", str(run / "new" / "loss.png"), "--title", "tiny"]) == 0
    )
    assert (run / "new" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.startswith("loss 10:7.800")
    assert main(["plot", "--log", str(run / loss_curve.LOG_FILE)]) == 0
    assert (run / "loss.png").exists()


@pytest.mark.parametrize(
    ("content", "reason"), [("", "no loss"), ("hello\n", "is not a"), (None, "not found")]
)
def test_what_cannot_be_read(tmp_path, content, reason):
    if content is not None:
        (tmp_path / loss_curve.LOG_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        loss_curve.read_loss_curve(tmp_path)
