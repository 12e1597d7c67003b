"""`paddle-glm convert`: convert a checkpoint to another format, dtype or degree."""

import argparse

from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.checkpoint.save import FORMATS, SAVE_FORMAT_HELP
from paddle_glm.commands.merge import add_common_arguments, common_options

# Shorthands for formats by who reads them.
FORMAT_ALIASES = {"hub": "safetensors", "paddle": "pdparams"}
HELP = "write a checkpoint in another format, dtype or tensor-parallel degree"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path", required=True, help="model folder in any format, of the hub or PaddleNLP"
    )
    parser.add_argument("--output_path", required=True, help="output folder")
    parser.add_argument(
        "--format",
        choices=[*FORMAT_ALIASES, *FORMATS],
        default="hub",
        help=f"{SAVE_FORMAT_HELP}. hub is safetensors, paddle is pdparams",
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    written = reshard(
        args.model_name_or_path,
        args.output_path,
        file_format=FORMAT_ALIASES.get(args.format, args.format),
        **common_options(args),
    )
    print(f"{args.output_path}: {written}")
