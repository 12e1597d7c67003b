"""Training steps and greedy decoding of ChatGLM2, compared with PaddleNLP's, at equal sizes in one process.

    python benchmarks/model.py [--layers 4 --hidden 512 --batch 4 --length 128 --rounds 5]

Prints tokens per second of each and their ratio, round by round in turn, so that a machine whose speed
drifts does not favour one. Medians count. Weights are random: only the time is compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import paddle
from paddlenlp.transformers import ChatGLMv2Config, ChatGLMv2ForCausalLM

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.models.base import CausalLM

VOCAB = 4000


def make_paddle_glm_model(args: argparse.Namespace) -> CausalLM:
    heads = args.hidden // 64
    return AutoModel.from_config(
        ModelConfig(
            num_layers=args.layers,
            hidden_size=args.hidden,
            num_attention_heads=heads,
            num_key_value_heads=2,
            head_dim=64,
            ffn_hidden_size=args.hidden * 3,
            vocab_size=VOCAB,
            max_sequence_length=2048,
        )
    )


def make_paddlenlp_model(args: argparse.Namespace) -> ChatGLMv2ForCausalLM:
    model = ChatGLMv2ForCausalLM(
        ChatGLMv2Config(
            num_hidden_layers=args.layers,
            hidden_size=args.hidden,
            num_attention_heads=args.hidden // 64,
            multi_query_group_num=2,
            kv_channels=64,
            ffn_hidden_size=args.hidden * 3,
            padded_vocab_size=VOCAB,
            seq_length=2048,
            use_cache=True,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    model.eval()
    return model


def train_step(model: paddle.nn.Layer, ids: paddle.Tensor) -> None:
    output = model(ids, labels=ids)
    loss = output.loss if hasattr(output, "loss") else output[0]
    loss.backward()
    model.clear_gradients()


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(
    name: str, tokens: int, first: Callable[[], object], second: Callable[[], object], rounds: int
) -> None:
    """Run both alternately and print the medians."""
    first()
    second()
    pairs = [(timed(first), timed(second)) for _ in range(rounds)]
    speeds = [tokens / statistics.median(times) for times in zip(*pairs, strict=True)]
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    print(
        f"{name}: paddle_glm {speeds[0]:.0f} tokens/s, PaddleNLP {speeds[1]:.0f} tokens/s, ratio {ratio:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    a, b = make_paddle_glm_model(args), make_paddlenlp_model(args)
    ids = paddle.to_tensor(np.random.default_rng(0).integers(3, VOCAB, (args.batch, args.length)))
    a.train()
    b.train()
    compare(
        "training step",
        args.batch * args.length,
        lambda: train_step(a, ids),
        lambda: train_step(b, ids),
        args.rounds,
    )
    a.eval()
    b.eval()
    real = paddle.ones_like(ids)  # PaddleNLP's default mask does not work in its next step
    greedy = {"max_new_tokens": args.new_tokens}
    compare(
        "greedy decoding",
        args.batch * args.new_tokens,
        lambda: a.generate(ids, do_sample=False, eos_token_id=[], **greedy),
        lambda: b.generate(ids, attention_mask=real, decode_strategy="greedy_search", **greedy),
        args.rounds,
    )


if __name__ == "__main__":
    main()
