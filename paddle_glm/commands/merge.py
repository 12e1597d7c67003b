"""`paddle-glm merge`: merge tensor-parallel shards, or reshard them to another degree."""

import argparse
from typing import Any

from paddle_glm.checkpoint.lazy_tensor import SAFETENSORS_FLOAT_NAMES
from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.checkpoint.save import DEFAULT_SHARD_SIZE, FORMATS, SAVE_FORMAT_HELP
from paddle_glm.models.registry import family_names

HELP = "merge tensor-parallel shards into one model folder, or reshard them to another degree"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_name_or_path", required=True, help="folder of shards, ours or PaddleNLP's")
    parser.add_argument("--merge_model_path", required=True, help="output folder")
    parser.add_argument("--save_format", choices=FORMATS, default=FORMATS[0], help=SAVE_FORMAT_HELP)
    add_common_arguments(parser)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags shared with `convert`, `merge-lora` and `quantize`."""
    parser.add_argument(
        "--tensor_parallel_degree",
        type=int,
        default=1,
        help="write shards for this many ranks; 1 writes full tensors",
    )
    parser.add_argument(
        "--dtype",
        choices=list(SAFETENSORS_FLOAT_NAMES),
        help="cast weights to this dtype (default: keep theirs)",
    )
    parser.add_argument(
        "--max_shard_size",
        default=DEFAULT_SHARD_SIZE,
        help="maximum size of a weight file, without tensor-parallel shards",
    )
    parser.add_argument(
        "--family", choices=family_names(), help="family of the model, where its files do not name it"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing folder that this program wrote"
    )


def common_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_common_arguments` as keywords of `reshard` and `merge_lora`."""
    return {
        "degree": args.tensor_parallel_degree,
        "dtype": args.dtype,
        "max_shard_size": args.max_shard_size,
        "overwrite": args.overwrite,
        "family": args.family,
    }


def run(args: argparse.Namespace) -> None:
    source, target = args.model_name_or_path, args.merge_model_path
    written = reshard(source, target, file_format=args.save_format, **common_options(args))
    print(f"{args.merge_model_path}: {written}")
