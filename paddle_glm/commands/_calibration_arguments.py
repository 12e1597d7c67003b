"""Flags and calibration data of `paddle-glm quantize`."""

import argparse
from typing import Any

from paddle_glm.array_types import Array
from paddle_glm.commands._model_arguments import add_row_arguments, columns_from_args, positive_int
from paddle_glm.commands._option_arguments import add_device_argument
from paddle_glm.errors import InputError
from paddle_glm.hardware import use_device

NEAREST, GPTQ = "nearest", "gptq"
# Rows per forward pass of a block.
_BATCH_SIZE = 8


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        choices=(NEAREST, GPTQ),
        default=NEAREST,
        help="how weights are rounded: to the nearest, or by GPTQ (arXiv:2210.17323), which minimises the "
        "change of the layers' outputs on the rows of --calibration_file",
    )
    parser.add_argument(
        "--calibration_file", help=f"rows with answers, such as the training data, for --method {GPTQ}"
    )
    parser.add_argument(
        "--calibration_rows", type=positive_int, default=128, help="number of rows, from the first"
    )
    add_device_argument(parser)
    add_row_arguments(parser)


def uses_calibration(args: argparse.Namespace) -> bool:
    """Whether the method needs calibration; raises `InputError` for flags that contradict it."""
    if args.method == GPTQ and args.calibration_file is None:
        raise InputError(f"--method {GPTQ} needs --calibration_file: rows like those that the model will see")
    if args.method == NEAREST and args.calibration_file is not None:
        raise InputError(
            f"--calibration_file {args.calibration_file}: give --method {GPTQ} too, or leave it out"
        )
    if args.method == NEAREST and args.device != "auto":
        raise InputError(f"--device {args.device}: only --method {GPTQ} computes on a device; leave it out")
    return bool(args.method == GPTQ)


def calibration_batches(args: argparse.Namespace) -> list[dict[str, Array]]:
    """Batches of the rows as in training, prompt and answer, padded on the right: `Collator`'s arrays."""
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.data.data_files import load_examples
    from paddle_glm.data.datasets import Collator, SupervisedDataset

    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, args.family)
    examples = load_examples(args.calibration_file, columns_from_args(args), limit=args.calibration_rows)
    samples = SupervisedDataset(
        examples, tokenizer.template, tokenizer, args.src_length, args.tgt_length
    ).samples
    collate = Collator(tokenizer.pad_token_id)
    return [collate(samples[start : start + _BATCH_SIZE]) for start in range(0, len(samples), _BATCH_SIZE)]


def quantize_with_calibration(
    args: argparse.Namespace, options: tuple[int, int | None, bool], **common: Any
) -> Any:
    """Quantise by GPTQ and write the folder; returns the same as `reshard`."""
    from tqdm import tqdm

    from paddle_glm.quantization.calibration import gptq_quantize_folder

    batches = calibration_batches(args)
    use_device(args.device)
    with tqdm(desc="blocks", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return gptq_quantize_folder(
            args.model_name_or_path, args.output_path, batches, *options, progress=progress, **common
        )
