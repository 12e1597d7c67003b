"""`paddle-glm tiny`: a data set, a tokenizer and a small random model, to try everything else with."""

import argparse
from pathlib import Path

from paddle_glm.families import family_names

HELP = "make a small data set, tokenizer and untrained model to try the chain with, offline"

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
        "--output_dir", required=True, help="gets model/, and, unless --data is given, data/ and shop/"
    )
    parser.add_argument(
        "--data", help="folder or file of rows to train the tokenizer on, instead of making rows"
    )
    parser.add_argument(
        "--family", default="chatglm2", choices=family_names(), help="whose layout and template"
    )
    parser.add_argument("--train_rows", type=int, default=6000, help="rows to make in train.json")
    parser.add_argument("--dev_rows", type=int, default=200, help="rows to make in dev.json")
    for name, (default, text) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--seed", type=int, default=0, help="of the rows and the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that this program wrote")


def run(args: argparse.Namespace) -> None:
    from paddle_glm.tiny.checkpoint import write_checkpoint
    from paddle_glm.tiny.grammar import write_dataset
    from paddle_glm.training.readers import find_files, load_rows

    output = Path(args.output_dir)
    data = Path(args.data) if args.data else output / "data"
    if not args.data:
        write_dataset(data, args.train_rows, args.dev_rows, args.seed)
        print(f"{data}: {args.train_rows} training rows, {args.dev_rows} held-out rows")
        # Another writer prefers other phrasings: something for an adapter to learn.
        shop, few = output / "shop", (args.train_rows + 2) // 3
        write_dataset(shop, few, args.dev_rows, args.seed + 2, usual=1)
        print(f"{shop}: {few} training rows, {args.dev_rows} held-out rows in the voice of one shop")
    files = find_files(data)
    examples = load_rows(files.train or data)
    texts = [message["content"] for example in examples for message in example.messages]
    sizes = {name: getattr(args, name) for name in SIZES}
    model = output / "model"
    config = write_checkpoint(model, texts, args.family, seed=args.seed, overwrite=args.overwrite, **sizes)
    print(
        f"{model}: {config.family}, {config.num_layers} layers of {config.hidden_size}, "
        f"{args.vocab_size} pieces learnt from {len(examples)} rows, random weights (seed {args.seed})"
    )
