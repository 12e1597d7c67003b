"""`paddle-glm plot`: the loss curve of a training run, as a picture and as a line of numbers."""

import argparse
from pathlib import Path

HELP = "draw the loss curve of a training run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", required=True, help="output_dir of finetune, or its train_log.jsonl")
    parser.add_argument("--output", help="picture to write (default: loss.png beside the log)")
    parser.add_argument("--title", default="", help="text above the curve")


def run(args: argparse.Namespace) -> None:
    from paddle_glm.training.curve import draw, read_curve

    log = Path(args.log)
    curve = read_curve(log)
    output = Path(args.output) if args.output else (log if log.is_dir() else log.parent) / "loss.png"
    draw(curve, output, args.title)
    print(curve.line())
    print(f"{output}: {len(curve.train)} points")
