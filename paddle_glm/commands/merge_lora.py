"""`paddle-glm merge-lora`: merge LoRA adapters into their base model."""

import argparse

from paddle_glm.checkpoint.output_checks import check_sources_outside_output
from paddle_glm.checkpoint.save import FORMATS, SAVE_FORMAT_HELP
from paddle_glm.commands.merge import add_common_arguments, common_options
from paddle_glm.peft.merge import merge_lora

HELP = "merge LoRA adapters into their base model, as one folder or as shards"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path",
        required=True,
        help="base model: hub folder, merged folder or folder of shards",
    )
    parser.add_argument("--lora_path", required=True, help="folder of a LoRA adapter, ours or PEFT's")
    parser.add_argument("--merge_model_path", required=True, help="output folder")
    parser.add_argument("--save_format", choices=FORMATS, default=FORMATS[0], help=SAVE_FORMAT_HELP)
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    check_sources_outside_output(args.merge_model_path, "--merge_model_path", [args.lora_path])
    written = merge_lora(
        args.model_name_or_path,
        args.lora_path,
        args.merge_model_path,
        file_format=args.save_format,
        **common_options(args),
    )
    print(f"{args.merge_model_path}: {written}")
