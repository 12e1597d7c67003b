"""Quantise a model's weights to int8 or int4, save it, chat with it, and compare the sizes.

`paddle-glm quantize` does the same tensor by tensor, for models that are larger than the memory.
"""

import argparse
from pathlib import Path

from paddle_glm import AutoModel, AutoTokenizer


def megabytes(folder: str) -> float:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo/model", help="folder of a float model")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--output_dir", default="demo/quantized")
    args = parser.parse_args()

    # The weights are quantised while they are read: the float model is never in memory as a whole.
    model = AutoModel.from_pretrained(args.model, quantization_bit=args.bits)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model.save_pretrained(args.output_dir, overwrite=True)
    tokenizer.save_pretrained(args.output_dir)
    before, after = megabytes(args.model), megabytes(args.output_dir)
    print(f"{args.model}: {before:.2f} MB, {args.output_dir}: {after:.2f} MB with {args.bits} bits")

    # The folder says how it is quantised, so that it opens like any other.
    model = AutoModel.from_pretrained(args.output_dir)
    response, _ = model.chat(tokenizer, "类型#裙*颜色#白色*风格#简约", max_new_tokens=64, do_sample=False)
    print(response)


if __name__ == "__main__":
    main()
