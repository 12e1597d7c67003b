"""A backend of your own: whatever gives logits can be sampled from and chatted with.

This one computes the whole sequence again at every step, without a key/value cache. Generation needs
no more of it than the methods of `paddle_glm.generation.GenerationBackend`.
"""

import argparse

import numpy as np
import paddle

from paddle_glm import AutoModel, AutoTokenizer
from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.generation import ChatSession, GenerationParams


class UncachedBackend:
    """The contract `GenerationBackend` over a model's `forward`."""

    def __init__(self, model: paddle.nn.Layer, max_length: int | None) -> None:
        self.model, self.max_length = model, max_length

    def prefill(self, input_ids: IntArray, attention_mask: IntArray) -> FloatArray:
        """Start new rows, int64 [batch, length] padded on the left; returns float32 [batch, vocab]."""
        self.ids, self.mask = input_ids, attention_mask
        return self._last_logits()

    def decode(self, tokens: IntArray) -> FloatArray:
        """Append one token to every row, int64 [batch]; returns float32 [batch, vocab]."""
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)
        self.mask = np.pad(self.mask, ((0, 0), (0, 1)), constant_values=1)
        return self._last_logits()

    def select(self, rows: IntArray) -> None:
        """Keep, drop or repeat rows: row i becomes what row `rows[i]` was."""
        self.ids, self.mask = self.ids[rows], self.mask[rows]

    def broadcast(self, values: IntArray) -> IntArray:
        """What all processes of one model go on with; a process alone decides by itself."""
        return values

    @paddle.no_grad()
    def _last_logits(self) -> FloatArray:
        ids, mask = paddle.to_tensor(self.ids), paddle.to_tensor(self.mask)
        logits = self.model(ids, attention_mask=mask, return_last_logit=True).logits
        return np.asarray(logits[:, -1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo/model", help="model folder, a hub's or ours")
    parser.add_argument("--prompt", default="类型#裙*颜色#白色*风格#简约")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model)
    backend = UncachedBackend(model, model.config.max_sequence_length)
    session = ChatSession(backend, tokenizer, GenerationParams(max_new_tokens=64, do_sample=False))
    for piece in session.stream([{"role": "user", "content": args.prompt}]):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
