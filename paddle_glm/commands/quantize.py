"""`paddle-glm quantize`: quantise float weights to int8 or int4, one tensor or one block at a time."""

import argparse

from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.commands._calibration_arguments import (
    add_calibration_arguments,
    quantize_with_calibration,
    uses_calibration,
)
from paddle_glm.commands.merge import add_common_arguments, common_options
from paddle_glm.quantization import BITS

HELP = "quantise a model's weights to int8 or int4: a half to a quarter of the size of float16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path", required=True, help="float model: hub folder, merged folder or shards"
    )
    parser.add_argument("--output_path", required=True, help="output folder")
    parser.add_argument("--bits", type=int, choices=BITS, default=4, help="bits per weight")
    parser.add_argument(
        "--group_size",
        type=int,
        help="inputs per scale; 0: one scale per output channel (default: 0 for 8 bits; 128 for 4, less if "
        "that does not divide the inputs)",
    )
    parser.add_argument(
        "--embeddings", action="store_true", help="quantise the embedding and the LM head too"
    )
    add_calibration_arguments(parser)
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> None:
    options, common = (args.bits, args.group_size, args.embeddings), common_options(args)
    if uses_calibration(args):
        written = quantize_with_calibration(args, options, **common)
    else:
        written = reshard(args.model_name_or_path, args.output_path, quantize=options, **common)
    print(f"{args.output_path}: {args.bits} bits, {written}")
