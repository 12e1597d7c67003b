"""`--download` and `--revision`, for every command with `--model_name_or_path`."""

import argparse
from pathlib import Path

from paddle_glm.errors import InputError
from paddle_glm.hub import DOWNLOAD_HELP, HUBS, REVISION_HELP, resolve_model_folder

MODEL_FLAG = "--model_name_or_path"


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """How a hub name is resolved."""
    parser.add_argument("--download", nargs="?", const=True, choices=list(HUBS), help=DOWNLOAD_HELP)
    parser.add_argument("--revision", help=REVISION_HELP)


def resolve_model(args: argparse.Namespace) -> None:
    """Make `args.model_name_or_path` a local folder; set `args.model_name`, the last part of the name.

    Raises `InputError` as `resolve_model_folder` does.
    """
    asked = args.model_name_or_path
    if asked is not None:
        args.model_name_or_path = str(resolve_model_folder(asked, args.download, args.revision))
        args.model_name = Path(asked).resolve().name
    elif args.download or args.revision:
        raise InputError(f"--download and --revision: give {MODEL_FLAG} too, the model's name on the hub")
