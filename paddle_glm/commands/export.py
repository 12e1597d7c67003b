"""`paddle-glm export`: export a model to the static graph that `infer`, `serve` and the C++ program run."""

import argparse
import os
from pathlib import Path

from paddle_glm.auto.dygraph import DygraphOptions
from paddle_glm.backends.generation_meta import GRAPH_SUFFIXES, ONNX_ARITHMETICS, TARGETS
from paddle_glm.checkpoint.output_checks import check_output_folder, check_sources_outside_output
from paddle_glm.commands._option_arguments import (
    add_device_argument,
    add_loading_arguments,
    given_options,
)
from paddle_glm.config import DTYPES
from paddle_glm.errors import InputError
from paddle_glm.hardware import parse_device, use_device

HELP = "export a model as a static graph, Paddle or ONNX, with its tokenizer"
DEFAULT_MODEL_PREFIX = "chatglm"
MODEL_PREFIXES = (DEFAULT_MODEL_PREFIX, "model")  # PaddleNLP's default is the second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path", required=True, help="hub folder, merged folder or folder of shards"
    )
    parser.add_argument(
        "--output_path",
        required=True,
        help="output folder, or FOLDER/PREFIX as PaddleNLP's infer/model: if the last part is --model_prefix "
        f"or, without that flag, one of {', '.join(MODEL_PREFIXES)}",
    )
    parser.add_argument(
        "--model_prefix", help=f"file name of the graph without suffix (default: {DEFAULT_MODEL_PREFIX})"
    )
    parser.add_argument(
        "--format",
        default="paddle",
        choices=list(GRAPH_SUFFIXES),
        help="paddle: for Paddle Inference; onnx: for ONNX Runtime, OpenVINO and FastDeploy; C++ reads both",
    )
    parser.add_argument(
        "--target",
        default="portable",
        choices=TARGETS,
        help="how an ONNX graph multiplies with int8 and int4 weights. onnxruntime (OpenVINO opens it too), "
        "openvino: with the integers as they are stored; portable: with standard operators, in every engine, "
        "many times slower",
    )
    parser.add_argument(
        "--arithmetic",
        default=ONNX_ARITHMETICS[0],
        choices=ONNX_ARITHMETICS,
        help="of --target onnxruntime: int8 rounds activations to 8 bits; float32 is exact and slower, for "
        "int4 weights only",
    )
    parser.add_argument(
        "--portable",
        action="store_true",
        help="use Paddle's operators only, so that the folder opens without the native CPU kernels; int8, "
        "int4 and half precision weights are many times slower then",
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *DTYPES),
        help="dtype of the stored weights; auto: that of the model's files",
    )
    add_device_argument(parser)
    add_loading_arguments(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing folder that this program wrote"
    )


def parse_output_path(output_path: str, prefix: str | None) -> tuple[Path, str]:
    """(folder, prefix) of FOLDER or FOLDER/PREFIX; prefix: the value of --model_prefix."""
    path = Path(output_path)
    if path.name in ((prefix,) if prefix else MODEL_PREFIXES) and path.parent != Path():
        return path.parent, path.name
    return path, prefix or DEFAULT_MODEL_PREFIX


def run(args: argparse.Namespace) -> None:
    # Hides Paddle's warning about arange without an output tensor, which is harmless.
    os.environ.setdefault("GLOG_minloglevel", "2")

    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.checkpoint import open_checkpoint
    from paddle_glm.export import export_model
    from paddle_glm.export.onnx_export import check_onnx_dtype
    from paddle_glm.export.unloaded import open_unloaded
    from paddle_glm.peft.adapter_folder import check_is_model_folder
    from paddle_glm.peft.lora import merge_and_unload

    folder, prefix = parse_output_path(args.output_path, args.model_prefix)
    sources = (args.model_name_or_path, args.ptuning_checkpoint, args.lora_path)
    check_sources_outside_output(folder, "--output_path", sources)
    check_output_folder(folder, "--output_path", args.overwrite)
    check_is_model_folder(args.model_name_or_path)
    dtype = args.dtype
    if dtype == "auto":  # independent of this machine, unlike "auto" for loading
        dtype = open_checkpoint(args.model_name_or_path, args.family).float_dtype
    if args.format == "onnx":
        if parse_device(args.device)[0] == "gpu":
            raise InputError(
                f"--device {args.device}: ONNX graphs are made on the CPU, for all; leave it out"
            )
        check_onnx_dtype(dtype)
    use_device("cpu" if args.format == "onnx" else args.device)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, args.family)
    options = DygraphOptions(**{**given_options(args, [DygraphOptions]), "dtype": dtype})
    weights = None
    if args.format == "onnx":
        unloaded = open_unloaded(args.model_name_or_path, options)
        model, weights = unloaded.model, unloaded.weights
    else:
        model = AutoModel.from_pretrained(args.model_name_or_path, **options.model_keywords())
        if not model.config.quantization_bit:  # a quantised graph keeps the adapter's matrices
            merge_and_unload(model)
    meta = export_model(
        model,
        tokenizer,
        folder,
        prefix,
        overwrite=args.overwrite,
        format=args.format,
        portable=args.portable,
        weights=weights,
        target=args.target,
        arithmetic=args.arithmetic,
    )
    size = f"{sum(meta.files.values()) / 1e6:.1f} MB"
    print(f"{folder}: {meta.format}, {meta.family}, {meta.num_layers} layers, {meta.stored_dtype}, {size}")
    if meta.operators:
        print("it needs the native CPU kernels; --portable exports a graph of Paddle's operators alone")
    if model.config.quantization_bit and args.format == "onnx" and args.target == "portable":
        print("every engine runs it, slowly; --target onnxruntime and --target openvino are for theirs")
    print(f"answer with it: paddle-glm infer --model_path {folder} --model_prefix {prefix}")
