"""How often a row's greedy token is another one in company than alone, as a server generates it.

    python benchmarks/row_independence.py --family chatglm                  # a small model
    python benchmarks/row_independence.py --hidden 4096 --heads 32 --ffn 13696 --layers 2 --vocab 8000

Random weights. Prompts of several lengths are read one by one and generate alone;
then they generate in company, each row being given the tokens that it had alone. "tokens": steps, of 1,000,
that choose another token; "logits": those with another bit anywhere. Greedy tokens of random weights
are closer to each other than those of a trained model. The rows' cache is in pages, as in the server, or
with --dense padded to the longest, as with an exported model.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from paddle_glm.array_types import FloatArray, IntArray  # noqa: E402
from paddle_glm.auto.model import AutoModel  # noqa: E402
from paddle_glm.config import ModelConfig  # noqa: E402
from paddle_glm.models.dygraph import DygraphBackend  # noqa: E402

CACHE_BYTES = 1 << 30
BITS = {"int8": 8, "int4": 4}


def make_backend(args: argparse.Namespace, kind: str) -> DygraphBackend:
    """kind: a dtype, or int8 or int4 with what is not quantised in float16."""
    config = ModelConfig(
        family=args.family,
        num_layers=args.layers,
        hidden_size=args.hidden,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads if args.family == "chatglm" else 2,
        multi_query_attention=args.family != "chatglm",
        head_dim=args.hidden // args.heads,
        ffn_hidden_size=args.ffn,
        vocab_size=args.vocab,
        max_sequence_length=4096,
        mask_token_id=args.vocab - 4,
        gmask_token_id=args.vocab - 3,
        bos_token_id=args.vocab - 2,
        position_encoding_2d=args.family == "chatglm",
    )
    paddle.seed(0)
    model = AutoModel.from_config(config, dtype="float16" if kind in BITS else kind)
    if kind in BITS:
        model.quantize(BITS[kind])
    model.eval()
    backend = DygraphBackend(model)
    if not args.dense:
        backend.limit_cache(CACHE_BYTES)
    return backend


def start(backend: DygraphBackend, prompts: list[IntArray]) -> None:
    """Read prompts one by one, each joining those before it."""
    for number, prompt in enumerate(prompts):
        reading = backend.start_reading(prompt[None], np.ones_like(prompt[None]))
        backend.read(reading, len(prompt))
        backend.join(reading, replace=number == 0)


def logits_alone(backend: DygraphBackend, prompt: IntArray, steps: int) -> tuple[FloatArray, IntArray]:
    """Logits [steps, vocab], and the tokens that were given, [steps]: the first is the prompt's last one."""
    start(backend, [prompt])
    token, found, tokens = int(prompt[-1]), [], []
    for _ in range(steps):
        tokens.append(token)
        found.append(backend.decode(np.array([token]))[0])
        token = int(found[-1].argmax())
    return np.stack(found), np.array(tokens)


def measure(args: argparse.Namespace, kind: str, companies: list[int]) -> None:
    backend, random = make_backend(args, kind), np.random.default_rng(0)
    rows = max(companies)
    steps = -(-args.tokens // rows)
    lengths = random.integers(10, args.longest, rows)
    ends = [args.vocab - 3, args.vocab - 2]  # a prompt of ChatGLM-6B holds [gMASK] <sop>
    prompts = [np.array([*random.integers(3, args.vocab - 8, length), *ends]) for length in lengths]
    logits, tokens = zip(*(logits_alone(backend, prompt, steps) for prompt in prompts), strict=True)
    for company in companies:
        other_tokens = other_logits = total = 0
        for first in range(0, rows, company):
            start(backend, prompts[first : first + company])
            alone = np.stack(logits[first : first + company], axis=1)
            for given, expected in zip(np.stack(tokens[first : first + company], axis=1), alone, strict=True):
                found = backend.decode(given)
                other_tokens += int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
                other_logits += int((found != expected).any(axis=1).sum())
                total += len(given)
        print(
            f"{kind:9} {company:3} rows: tokens {other_tokens * 1000 / total:5.1f}, "
            f"logits {other_logits * 1000 / total:6.1f}, of 1,000",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["float32", "bfloat16", "float16", "int8", "int4"])
    parser.add_argument("--rows", nargs="+", type=int, default=[8, 16], help="in company")
    parser.add_argument("--longest", type=int, default=400, help="tokens of the longest prompt")
    parser.add_argument("--dense", action="store_true", help="one padded cache instead of pages")
    parser.add_argument("--tokens", type=int, default=1000, help="of all rows together")
    parser.add_argument("--family", choices=["chatglm", "chatglm2"], default="chatglm2")
    parser.add_argument("--threads", type=int, default=2)
    for name, default in (("layers", 4), ("hidden", 256), ("heads", 8), ("ffn", 688), ("vocab", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    paddle.base.core.set_num_threads(args.threads)
    for kind in args.kinds:
        measure(args, kind, args.rows)


if __name__ == "__main__":
    main()
