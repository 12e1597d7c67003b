"""`paddle-glm verify`: check that a model folder is complete and undamaged."""

import argparse

from paddle_glm.checkpoint.verify import verify
from paddle_glm.models.registry import family_names

HELP = "check a model folder: file sizes, checksums, names and shapes of weights, optionally NaN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="a checkpoint, a merged model or an exported model")
    parser.add_argument(
        "--checksums",
        action="store_true",
        default=True,
        help="compare each file with its checksum in manifest.json (default)",
    )
    parser.add_argument(
        "--no_checksums",
        dest="checksums",
        action="store_false",
        help="compare sizes only, without reading files",
    )
    parser.add_argument("--nan", action="store_true", help="check all weights for NaN and Inf")
    parser.add_argument(
        "--family", choices=family_names(), help="family of the model, where its files do not name it"
    )


def run(args: argparse.Namespace) -> int:
    wrong = 0
    for finding in verify(args.folder, args.checksums, args.nan, args.family):
        wrong += not finding.ok
        print(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.subject:<40}  {finding.text}", flush=True)
    print(f"{args.folder}: " + (f"{wrong} of these are wrong" if wrong else "everything is correct"))
    return 1 if wrong else 0
