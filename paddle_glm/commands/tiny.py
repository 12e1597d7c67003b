"""`paddle-glm tiny`: generate a data set, a tokenizer and a small random model to try the other commands."""

import argparse
from dataclasses import replace
from pathlib import Path

from paddle_glm.config import DTYPES, ModelConfig, released_configs
from paddle_glm.errors import InputError
from paddle_glm.models.registry import family_names
from paddle_glm.quantization import BITS

HELP = "generate a small data set, tokenizer and untrained model to try the other commands, offline"
# The files that are generated without --data.
DATASET_FILES = ("data/train.json", "data/dev.json", "shop/train.json", "shop/dev.json")
# Set by --like.
ARCHITECTURE_FLAGS = (
    "family",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "ffn_hidden_size",
)

SIZES = {
    "vocab_size": (1200, "SentencePiece pieces of the tokenizer"),
    "num_layers": (2, "transformer blocks"),
    "hidden_size": (128, "width of the model"),
    "num_attention_heads": (4, "attention heads; the tensor parallel degree has to divide them"),
    "num_key_value_heads": (2, "key and value groups, where a family has them"),
    "ffn_hidden_size": (344, "width of the feed-forward layers"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output_dir", required=True, help="output folder: model/ and, without --data, data/ and shop/"
    )
    parser.add_argument(
        "--data", help="folder or file of rows to train the tokenizer on, instead of generated rows"
    )
    parser.add_argument(
        "--family", choices=family_names(), help=f"model family (default: {ModelConfig.family})"
    )
    parser.add_argument("--train_rows", type=int, default=6000, help="generated rows in train.json")
    parser.add_argument("--dev_rows", type=int, default=200, help="generated rows in dev.json")
    for name, (default, text) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"{text} (default: {default})")
    parser.add_argument(
        "--like",
        choices=released_configs(),
        help="a model with the sizes of this released one and random weights: writes up to 13 GB",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the weights with --like (default: float16)")
    parser.add_argument(
        "--quantization_bit",
        type=int,
        choices=BITS,
        help="with --like: quantise the weights to this many bits",
    )
    parser.add_argument(
        "--quantization_embeddings",
        action="store_true",
        default=None,
        help="with --quantization_bit: quantise the embedding and the LM head too",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of rows and weights")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing model that this program wrote"
    )


def run(args: argparse.Namespace) -> None:
    from paddle_glm.checkpoint.hashed_file import file_digest
    from paddle_glm.data.data_files import find_data_files, load_examples
    from paddle_glm.tiny.grammar import write_dataset
    from paddle_glm.tiny.manifest import DatasetManifest

    _check_flags(args)
    output = Path(args.output_dir)
    data = Path(args.data) if args.data else output / "data"
    settings = {name: value for name, value in vars(args).items() if name not in ("output_dir", "overwrite")}
    if args.data:
        settings["data"] = file_digest(find_data_files(data).train or data)
    earlier = DatasetManifest.read(output)
    if earlier.is_up_to_date(output, settings) and not args.overwrite:
        print(f"{output} is there already, made with the same flags")
        return
    earlier.check_replaceable(output, () if args.data else DATASET_FILES, args.overwrite)
    if not args.data:
        write_dataset(data, args.train_rows, args.dev_rows, args.seed)
        print(f"{data}: {args.train_rows} training rows, {args.dev_rows} held-out rows")
        # Other phrasings are preferred here: something for an adapter to learn.
        shop, few = output / "shop", (args.train_rows + 2) // 3
        write_dataset(shop, few, args.dev_rows, args.seed + 2, preferred=1)
        print(f"{shop}: {few} training rows, {args.dev_rows} held-out rows in the voice of one shop")
    made = DatasetManifest(
        {}, {} if args.data else {name: file_digest(output / name) for name in DATASET_FILES}
    )
    made.write(output)
    files = find_data_files(data)
    examples = load_examples(files.train or data)
    texts = [message["content"] for example in examples for message in example.messages]
    model = output / "model"
    config = _write_model(args, model, texts)
    replace(made, settings=settings).write(output)
    pieces = f"{_size(args, 'vocab_size')} pieces learnt from {len(examples)} rows"
    print(
        f"{model}: {config.family}, {config.num_layers} layers of {config.hidden_size}, "
        f"{pieces}, random weights (seed {args.seed})"
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Raise `InputError` for a flag without effect."""
    if args.like:
        idle = dict.fromkeys(ARCHITECTURE_FLAGS, f"--like {args.like} decides that")
    else:
        idle = dict.fromkeys(("dtype", "quantization_bit"), "it needs --like")
    if args.quantization_bit is None:
        idle["quantization_embeddings"] = "it needs --quantization_bit"
    for name, why in idle.items():
        if getattr(args, name) is not None:
            raise InputError(f"--{name} {getattr(args, name)}: {why}; leave it out")


def _size(args: argparse.Namespace, name: str) -> int:
    value = getattr(args, name)
    return SIZES[name][0] if value is None else value


def _write_model(args: argparse.Namespace, folder: Path, texts: list[str]) -> ModelConfig:
    from paddle_glm.tiny.checkpoint import write_checkpoint, write_checkpoint_like

    if args.like is None:
        sizes = {name: _size(args, name) for name in SIZES}
        return write_checkpoint(
            folder,
            texts,
            args.family or ModelConfig.family,
            **sizes,
            seed=args.seed,
            overwrite=args.overwrite,
        )
    return write_checkpoint_like(
        folder,
        texts,
        args.like,
        vocab_size=_size(args, "vocab_size"),
        num_layers=args.num_layers,
        dtype=args.dtype or "float16",
        quantization_bit=args.quantization_bit,
        quantization_embeddings=bool(args.quantization_embeddings),
        seed=args.seed,
        overwrite=args.overwrite,
    )
