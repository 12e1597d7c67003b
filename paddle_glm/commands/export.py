"""`paddle-glm export`: a model folder to the static graph that infer, the servers and C++ run."""

import argparse
import os
from pathlib import Path

from paddle_glm.backends.meta import GRAPH_FILES
from paddle_glm.checkpoint.targets import check_apart, check_folder
from paddle_glm.commands._generating import add_device_argument, add_loading_arguments, loading_options
from paddle_glm.config import DTYPES, ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import family_names, family_of
from paddle_glm.hardware import free_memory, parse_device, use_device
from paddle_glm.memory import Room, check_room, weight_bytes

HELP = "write a model as a static graph, Paddle's or ONNX, with its tokenizer"
PREFIX = "chatglm"
PREFIXES = (PREFIX, "model")  # the latter is PaddleNLP's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path", required=True, help="hub folder, merged folder or folder of shards"
    )
    parser.add_argument(
        "--output_path",
        required=True,
        help="folder to write; FOLDER/PREFIX where the last part is --model_prefix or one of "
        f"{', '.join(PREFIXES)} and --model_prefix is not given, as in PaddleNLP's infer/model",
    )
    parser.add_argument("--model_prefix", help=f"what the graph's files are called (default: {PREFIX})")
    parser.add_argument(
        "--format",
        default="paddle",
        choices=list(GRAPH_FILES),
        help="paddle: for Paddle Inference; onnx: one file below 2 GiB for ONNX Runtime, OpenVINO and "
        "FastDeploy; C++ reads both",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *DTYPES),
        help="of the stored weights; auto: the model's own",
    )
    add_device_argument(parser)
    parser.add_argument(
        "--family", choices=family_names(), help="what the model is, where its files do not say"
    )
    add_loading_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this program wrote")


def output_place(output_path: str, prefix: str | None) -> tuple[Path, str]:
    """(folder, prefix) that `FOLDER` and `FOLDER/PREFIX` name; prefix: what --model_prefix says."""
    path = Path(output_path)
    if path.name in ((prefix,) if prefix else PREFIXES) and path.parent != Path():
        return path.parent, path.name
    return path, prefix or PREFIX


def run(args: argparse.Namespace) -> None:
    # Paddle warns that a graph's arange writes into no given tensor, which nobody asked it to.
    os.environ.setdefault("GLOG_minloglevel", "2")

    from paddle_glm.checkpoint import open_checkpoint
    from paddle_glm.export import export_model
    from paddle_glm.models.auto import AutoModel
    from paddle_glm.peft.folders import check_is_model
    from paddle_glm.peft.lora import fold_lora
    from paddle_glm.tokenizers import AutoTokenizer

    folder, prefix = output_place(args.output_path, args.model_prefix)
    sources = (args.model_name_or_path, args.ptuning_checkpoint, args.lora_path)
    check_apart(folder, "--output_path", sources)
    check_folder(folder, "--output_path", args.overwrite)
    check_is_model(args.model_name_or_path)
    dtype = args.dtype
    if dtype == "auto":  # a file to hand on: what the machine that writes it would like does not count
        dtype = open_checkpoint(args.model_name_or_path, args.family).float_dtype
    if args.format == "onnx":
        _check_onnx(args, dtype)
    use_device("cpu" if args.format == "onnx" else args.device)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, args.family)
    model = AutoModel.from_pretrained(
        args.model_name_or_path,
        dtype,
        family=args.family,
        **loading_options(args),
    )
    if not model.config.quantization_bit:  # there the graph computes the adapter's product by itself
        fold_lora(model)
    meta = export_model(model, tokenizer, folder, prefix, overwrite=args.overwrite, format=args.format)
    size = f"{sum(meta.files.values()) / 1e6:.1f} MB"
    print(f"{folder}: {meta.format}, {meta.family}, {meta.num_layers} layers, {meta.stored_dtype}, {size}")
    print(f"answer with it: paddle-glm infer --model_path {folder} --model_prefix {prefix}")


def _check_onnx(args: argparse.Namespace, dtype: str) -> None:
    """What can be said before a large model is read; the graph is to compute float32, as CPUs do."""
    from paddle_glm.export.onnx_file import PEAKS, QUANTIZED_PEAK, check_fits

    if parse_device(args.device)[0] == "gpu":
        raise InputError(f"--device {args.device}: ONNX graphs are made on the CPU, for all; leave it out")
    config = ModelConfig.from_pretrained(args.model_name_or_path, args.family)
    if args.quantization_bit and not config.quantization_bit:
        options = (args.quantization_bit, args.quantization_group_size)
        config = family_of(config).quantized_config(config, *options)
    check_fits(config, dtype)
    room = Room("cpu", free_memory("cpu"))
    peak = QUANTIZED_PEAK if config.quantization_bit else PEAKS[dtype]
    needed = int(peak * weight_bytes(config, dtype))
    what = f"making an ONNX file of {Path(args.model_name_or_path).resolve().name} with {dtype} weights"
    check_room(
        what, needed, room, lambda: "make it on another machine, or give --format paddle, which takes less"
    )
