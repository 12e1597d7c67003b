"""`paddle-glm plot`: plot the loss curve of a training run and print it as numbers."""

import argparse
from pathlib import Path

HELP = "plot the loss curve of a training run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", required=True, help="output_dir of finetune, or its train_log.jsonl")
    parser.add_argument("--output", help="output image (default: loss.png next to the log)")
    parser.add_argument("--title", default="", help="title of the plot")


def run(args: argparse.Namespace) -> None:
    from paddle_glm.training.loss_curve import plot_loss_curve, read_loss_curve

    log = Path(args.log)
    curve = read_loss_curve(log)
    output = Path(args.output) if args.output else (log if log.is_dir() else log.parent) / "loss.png"
    plot_loss_curve(curve, output, args.title)
    print(curve.summary())
    print(f"{output}: {len(curve.train)} points")
