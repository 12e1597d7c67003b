"""`paddle-glm export`: a model folder to the static graph that infer, the servers and C++ run."""

import argparse
import os
from pathlib import Path

from paddle_glm.backends.meta import GRAPH_FILES
from paddle_glm.checkpoint.targets import check_folder
from paddle_glm.commands._generating import add_loading_arguments, loading_options
from paddle_glm.config import DTYPES, ModelConfig
from paddle_glm.families import family_names, family_of

HELP = "write a model as a static graph, Paddle's or ONNX, with its tokenizer"
PREFIX = "chatglm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path", required=True, help="hub folder, merged folder or folder of shards"
    )
    parser.add_argument(
        "--output_path",
        required=True,
        help="folder to write; PaddleNLP's spelling FOLDER/PREFIX is understood for the prefix below",
    )
    parser.add_argument("--model_prefix", default=PREFIX, help="what the graph's files are called")
    parser.add_argument(
        "--format",
        default="paddle",
        choices=list(GRAPH_FILES),
        help="paddle: for Paddle Inference; onnx: one file below 2 GiB for ONNX Runtime, OpenVINO and "
        "FastDeploy; C++ reads both",
    )
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the stored weights")
    parser.add_argument(
        "--family", choices=family_names(), help="what the model is, where its files do not say"
    )
    add_loading_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this program wrote")


def output_folder(output_path: str, prefix: str) -> Path:
    """`DIR/chatglm` and `DIR` both name the folder `DIR`."""
    path = Path(output_path)
    return path.parent if path.name == prefix else path


def run(args: argparse.Namespace) -> None:
    # Paddle warns that a graph's arange writes into no given tensor, which nobody asked it to.
    os.environ.setdefault("GLOG_minloglevel", "2")

    import paddle

    from paddle_glm.export import export_model
    from paddle_glm.export.onnx_file import check_fits
    from paddle_glm.models.auto import AutoModel
    from paddle_glm.peft.folders import check_is_model
    from paddle_glm.peft.lora import fold_lora
    from paddle_glm.tokenizers import AutoTokenizer

    folder = output_folder(args.output_path, args.model_prefix)
    check_folder(folder, "--output_path", args.overwrite)
    check_is_model(args.model_name_or_path)
    if args.format == "onnx":  # said before a large model is read; the graph is to compute float32
        config = ModelConfig.from_pretrained(args.model_name_or_path, args.family)
        if args.quantization_bit and not config.quantization_bit:
            options = (args.quantization_bit, args.quantization_group_size)
            config = family_of(config).quantized_config(config, *options)
        check_fits(config, args.dtype)
        paddle.set_device("cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path, args.family)
    model = AutoModel.from_pretrained(
        args.model_name_or_path,
        args.dtype,
        family=args.family,
        **loading_options(args),
    )
    if not model.config.quantization_bit:  # there the graph computes the adapter's product by itself
        fold_lora(model)
    meta = export_model(
        model, tokenizer, folder, args.model_prefix, overwrite=args.overwrite, format=args.format
    )
    size = f"{sum(meta.files.values()) / 1e6:.1f} MB"
    print(f"{folder}: {meta.format}, {meta.family}, {meta.num_layers} layers, {meta.stored_dtype}, {size}")
    print(f"answer with it: paddle-glm infer --model_path {folder} --model_prefix {args.model_prefix}")
