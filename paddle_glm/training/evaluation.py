"""What is measured on rows held out: the loss and accuracy per token, and generated answers."""

import math
from collections.abc import Iterable, Mapping

import paddle
from paddle import Tensor

from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import TPGroup
from paddle_glm.parallel.ops import IGNORE_INDEX, all_reduce, vocab_parallel_cross_entropy
from paddle_glm.parallel import SINGLE


@paddle.no_grad()
def evaluate_tokens(
    model: CausalLM, batches: Iterable[Mapping[str, Tensor]], data: TPGroup
) -> dict[str, float]:
    """`loss` (mean over all answer tokens), `perplexity` and `accuracy` (share predicted exactly).

    Every process of `data` brings its share of the batches; all get the same numbers.
    """
    totals = paddle.zeros([3], dtype="float64")
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        totals += token_totals(model(**inputs).logits, batch["labels"])
    if data.degree > 1:
        totals = all_reduce(totals, data)
    loss, correct, count = totals.tolist()
    loss, accuracy = loss / max(count, 1), correct / max(count, 1)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "accuracy": accuracy}


def token_totals(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy, right predictions and number of labels that count: float64 [3].

    logits: float32 [batch, tokens, vocab]; labels: int64 [batch, tokens], aligned with the inputs, each
    predicted from the tokens before it.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != IGNORE_INDEX
    loss = vocab_parallel_cross_entropy(logits, labels, SINGLE)
    right = paddle.logical_and(logits.argmax(axis=-1) == labels, counted)
    return paddle.stack([part.astype("float64").sum() for part in (loss, right, counted)])
