"""`paddle-glm COMMAND`: finds the command's module, runs it, and turns errors into one line."""

import argparse
import difflib
import importlib
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from paddle_glm import commands
from paddle_glm.commands._hub_arguments import MODEL_FLAG, add_hub_arguments, resolve_model
from paddle_glm.errors import InputError
from paddle_glm.hardware import GPUS_HINT
from paddle_glm.system import configure_console_encoding
from paddle_glm.version import __version__

# The order of the work, for --help; commands not named here follow alphabetically.
COMMAND_ORDER = (
    *("tiny", "convert", "finetune", "ptuning", "plot", "merge", "merge-lora", "quantize"),
    *("predict", "evaluate", "export", "infer", "chat", "serve", "web", "doctor"),
)

# Earlier commands, and what to type instead.
MOVED_COMMANDS = {
    "quickstart": "it needs a checkout of the repository: run `bash tools/quickstart.sh` there, without bash "
    "`python -m tools.quickstart`"
}

# What importing paddle and paddlenlp warns of, on every machine, and nobody here can act on.
IGNORED_WARNINGS = ("No ccache found", "Setuptools is replacing distutils")

INTRO = """ChatGLM on PaddlePaddle: from raw rows to answers.

usage: paddle-glm COMMAND [flags]      paddle-glm COMMAND --help      paddle-glm --version
"""

OUTRO = """A first run, offline and without a GPU:
  paddle-glm tiny --output_dir demo
  paddle-glm chat --model_name_or_path demo/model"""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.required or action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are InputErrors and which suggests the nearest flag to an unknown one."""

    def __init__(self, **kwargs: Any) -> None:
        # --max_s meaning --max_steps hides typing errors
        super().__init__(**{"allow_abbrev": False, "formatter_class": _Help, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")

    def has_model_argument(self) -> bool:
        """Whether there is a flag for the model's folder, which a hub's name may stand for."""
        return MODEL_FLAG in self._option_string_actions

    def parse_args(  # type: ignore[override]  # its overloads are for other types of `namespace`
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            if flag == "--gpus":
                self.error(GPUS_HINT)
            self.error(f"unknown argument {flag!r}{did_you_mean(flag, self._option_string_actions)}")
        return parsed


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ ", did you mean X?" for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def command_names() -> list[str]:
    """All modules of paddle_glm.commands, in COMMAND_ORDER, then alphabetically."""
    modules = [m.name for m in pkgutil.iter_modules(commands.__path__) if not m.name.startswith("_")]
    names = [name.replace("_", "-") for name in modules]
    return sorted(
        names,
        key=lambda name: (COMMAND_ORDER.index(name) if name in COMMAND_ORDER else len(COMMAND_ORDER), name),
    )


def load_command(name: str) -> ModuleType:
    return importlib.import_module(f"{commands.__name__}.{name.replace('-', '_')}")


def help_text() -> str:
    """The text of `paddle-glm --help`: one line per command."""
    names = command_names()
    width = max(len(name) for name in names) + 2
    lines = [f"  {name:<{width}}{load_command(name).HELP}" for name in names]
    return "\n".join([INTRO, "commands:", *lines, "", OUTRO])


def run_command(name: str, argv: Sequence[str]) -> int:
    """Runs one command on its own arguments; returns its exit code (0 where it returned None)."""
    names = command_names()
    if name in MOVED_COMMANDS:
        raise InputError(f"paddle-glm {name}: {MOVED_COMMANDS[name]}")
    if name not in names:
        raise InputError(f"unknown command {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")
    command = load_command(name)
    if hasattr(command, "run_argv"):
        return command.run_argv(list(argv)) or 0
    parser = Parser(prog=f"paddle-glm {name}", description=command.HELP)
    command.add_arguments(parser)
    if not parser.has_model_argument():
        return command.run(parser.parse_args(argv)) or 0
    add_hub_arguments(parser)
    args = parser.parse_args(argv)
    resolve_model(args)
    return command.run(args) or 0


def error_line(error: Exception) -> str:
    """One line for the user; an OSError loses its errno, which says nothing to most people."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def dispatch(argv: Sequence[str]) -> int:
    """Print the help or the version, or run the command that `argv` begins with; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"paddle-glm {__version__}")
        return 0
    return run_command(argv[0], argv[1:])


def run_program(work: Callable[[], int]) -> int:
    """Run `work` with console and logging set up; returns the process's exit code.

    The code is `work`'s own, 2 for an error that the user can fix (one line on stderr), 130 when
    interrupted. Any other exception is a bug and keeps its traceback; PADDLE_GLM_DEBUG=1 shows the
    traceback of user errors too.
    """
    configure_console_encoding()
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # on stderr; before Paddle sets its own
    try:
        return work()
    except BrokenPipeError:  # the reader of our output closed it, as in `paddle-glm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (InputError, OSError) as error:
        if os.environ.get("PADDLE_GLM_DEBUG") == "1":
            raise
        print(f"paddle-glm: error: {error_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("paddle-glm: interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """`paddle-glm` with these arguments (default: the process's own); returns an exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return run_program(lambda: dispatch(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
