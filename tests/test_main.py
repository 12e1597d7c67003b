"""The command line itself: what it teaches, and how errors reach the user."""

import subprocess
import sys
import types

import pytest

import paddle_glm.main as cli
from paddle_glm import version
from paddle_glm.errors import InputError
from tests.paths import ROOT


@pytest.fixture
def command(monkeypatch):
    """Registers a command `demo` whose `run` is the function given."""

    def register(run):
        def add_arguments(parser):
            parser.add_argument("--max_steps", type=int, default=7, help="how many steps")

        module = types.SimpleNamespace(HELP="Shows how.", add_arguments=add_arguments, run=run)
        monkeypatch.setattr(cli, "command_names", lambda: ["demo", "merge"])
        monkeypatch.setattr(cli, "load_command", lambda name: module)

    return register


def test_help_has_one_line_per_command(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in cli.command_names():
        matching = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(matching) == 1 and len(matching[0]) <= 110, name


def test_no_command_shows_the_help(capsys):
    assert cli.main([]) == 0
    assert "usage: paddle-glm COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.command_names())
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ending:
        cli.main([name, "--help"])
    assert ending.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"paddle-glm {version.__version__}\n"


def test_unknown_command_suggests_the_nearest(command, capsys):
    command(lambda args: None)
    assert cli.main(["merg"]) == 2
    error = capsys.readouterr().err
    assert "unknown command 'merg' (did you mean 'merge'?)" in error
    assert "known: demo, merge" in error


def test_unknown_flag_suggests_the_nearest(command, capsys):
    command(lambda args: None)
    assert cli.main(["demo", "--max_step", "3"]) == 2
    assert "'--max_step' (did you mean '--max_steps'?)" in capsys.readouterr().err


def test_bad_value_is_one_line(command, capsys):
    command(lambda args: None)
    assert cli.main(["demo", "--max_steps", "many"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("no such shard"), 2, "paddle-glm: error: no such shard\n"),
        (
            FileNotFoundError(2, "No such file", "rows.json"),
            2,
            "paddle-glm: error: rows.json: No such file\n",
        ),
        (KeyboardInterrupt(), 130, "paddle-glm: interrupted\n"),
    ],
)
def test_errors_become_one_line(command, capsys, error, code, text):
    def fail(args):
        raise error

    command(fail)
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == text


def test_debugging_keeps_the_traceback(command, monkeypatch):
    def fail(args):
        raise InputError("no such shard")

    command(fail)
    monkeypatch.setenv("PADDLE_GLM_DEBUG", "1")
    with pytest.raises(InputError):
        cli.main(["demo"])


def test_our_own_defects_keep_their_traceback(command):
    def fail(args):
        raise ZeroDivisionError

    command(fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_exit_code_and_arguments_of_a_command(command):
    seen = []

    def run(args):
        seen.append(args.max_steps)
        return 5

    command(run)
    assert cli.main(["demo", "--max_steps", "3"]) == 5
    assert seen == [3]


@pytest.mark.integration
def test_output_may_be_cut_off():
    """As in `paddle-glm --help | head -n 0`: no traceback about the closed pipe."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from paddle_glm.main import main; sys.stdin.read(); sys.exit(main([]))",
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate()
    assert b"Traceback" not in error
