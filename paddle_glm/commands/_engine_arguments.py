"""Flags of the commands that generate from a folder or a server, and opening either."""

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from paddle_glm.auto.backend import BACKENDS
from paddle_glm.commands._option_arguments import add_option_arguments, given_options
from paddle_glm.commands._sampling_arguments import explicit_values
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.hardware import parse_device
from paddle_glm.parallel import world_size

if TYPE_CHECKING:
    from paddle_glm.auto.engine import Engine
    from paddle_glm.serving.client import RemoteSession

CLIENT_KEY_VARIABLE = "OPENAI_API_KEY"


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, the backend, and the backend's options."""
    parser.add_argument(
        "--model_name_or_path",
        "--model_path",
        help="hub folder, merged folder, folder of shards, or exported folder",
    )
    add_backend_arguments(parser, list(BACKENDS))


def add_adapter_arguments(parser: argparse.ArgumentParser) -> None:
    """Adapters beside the model, each a name to choose."""
    parser.add_argument(
        "--adapters",
        "--lora_modules",
        nargs="+",
        type=_named_folder,
        default=[],
        metavar="NAME=FOLDER",
        help="LoRA adapters, ours or PEFT's, and prefixes (P-Tuning v2), ours or THUDM's, each served under "
        "its name beside the model",
    )


def _named_folder(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=FOLDER")
    return name, folder


def served_name(args: argparse.Namespace) -> str:
    """The model's name for clients: --served_model_name, or the folder's."""
    name: str = getattr(args, "served_model_name", None) or args.model_name
    return name


def _adapters(args: argparse.Namespace) -> dict[str, str]:
    """Name -> folder of --adapters; raises `InputError` for a name given twice, or the model's own."""
    adapters: dict[str, str] = {}
    for name, folder in getattr(args, "adapters", ()):
        if name == served_name(args) or name in adapters:
            raise InputError(f"--adapters {name}={folder}: the name {name} is taken; give another")
        adapters[name] = folder
    return adapters


def _backend_name(text: str) -> str:
    """The name of a backend, also as PaddleNLP's scripts spell it."""
    return {"onnx_runtime": "onnxruntime"}.get(text, text)


def add_backend_arguments(parser: argparse.ArgumentParser, backends: Sequence[str]) -> None:
    """--backend with the names to choose from, and the options that these backends declare."""
    parser.add_argument(
        "--backend", choices=backends, type=_backend_name, help="default: the first that reads the folder"
    )
    add_option_arguments(parser, [BACKENDS[name].options for name in backends])


def check_device_flags(args: argparse.Namespace) -> None:
    """Raise `InputError` for --device_id beside a CPU and --cpu_threads beside a GPU."""
    kind, _ = parse_device(args.device)
    if kind == "cpu" and args.device_id is not None:
        raise InputError(
            f"--device_id {args.device_id} has no effect here: it needs a GPU, but --device is cpu"
        )
    if kind == "gpu" and args.cpu_threads:
        raise InputError(
            f"--cpu_threads {args.cpu_threads} has no effect here: it needs a CPU, but --device is "
            f"{args.device}"
        )


def open_engine_from_args(args: argparse.Namespace, folder: str | None = None) -> "Engine":
    """Open `folder` (default: --model_name_or_path) as the flags of `add_backend_arguments` say, and beside
    it the adapters of `add_adapter_arguments`.

    Raises `InputError` where it cannot be opened, and for flags that the backend does not take.
    """
    from paddle_glm.auto.engine import open_engine

    check_device_flags(args)
    return open_engine(
        folder or args.model_name_or_path, args.backend, _adapters(args), **given_options(args)
    )


def add_remote_arguments(parser: argparse.ArgumentParser) -> None:
    """A server of the OpenAI protocol instead of a folder."""
    parser.add_argument("--api_base", help="talk to this server instead, such as http://127.0.0.1:8000/v1")
    parser.add_argument(
        "--model", help="which of the server's models (default: the only one that is no adapter)"
    )
    parser.add_argument(
        "--api_key", help=f"the server's key; {CLIENT_KEY_VARIABLE} keeps it out of process lists"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds to wait for the server's next byte"
    )


def add_origin_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow_origin",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="web pages of these origins may use the server, e.g. http://localhost:3000; * for all",
    )


def check_local_or_remote(
    args: argparse.Namespace, add_local: Sequence[Callable[[argparse.ArgumentParser], None]]
) -> None:
    """Raise `InputError` unless one of folder and server is given, for flags of the other, under a launcher.

    add_local: the functions that add the flags about a folder.
    """
    if (args.model_name_or_path is None) == (args.api_base is None):
        raise InputError("give --model_name_or_path FOLDER or --api_base URL (one of them)")
    if world_size() > 1:
        raise InputError(
            f"the launcher started {world_size()} processes, but this command is one: have the launcher "
            "start tools/api.py, and give this command the server's --api_base URL"
        )
    idle = argparse.ArgumentParser(add_help=False)
    for add in add_local if args.api_base is not None else (add_remote_arguments,):
        add(idle)
    for name, default in vars(idle.parse_args([])).items():
        if name not in ("model_name_or_path", "api_base") and getattr(args, name) != default:
            what = "a server" if args.api_base is not None else "a folder"
            raise InputError(f"--{name} {getattr(args, name)}: it has no meaning for {what}; leave it out")


@contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Turn the error of a missing package into an `InputError` that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "paddle_glm":
            raise
        raise InputError(
            f"the package {error.name} is missing: pip install -c constraints.txt -e '.[{extra}]'"
        ) from error


def open_remote_session(args: argparse.Namespace) -> "RemoteSession":
    """A session with the server; asks it for its models and sends the sampling flags with each request."""
    with require_extra("serve"):
        from paddle_glm.serving.client import OpenAIClient, RemoteSession, choose_models, request_fields

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every request
    given = explicit_values(args, GenerationParams())
    GenerationParams().updated(given)  # reject invalid values before asking the server
    fields = request_fields(given)
    client = OpenAIClient(args.api_base, args.api_key or os.environ.get(CLIENT_KEY_VARIABLE), args.timeout)
    models = choose_models(client, args.model)
    return RemoteSession(client, models[0], fields, models)
