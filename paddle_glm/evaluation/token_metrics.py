"""Loss, perplexity and accuracy per token on held-out rows."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import paddle
from paddle import Tensor

from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.evaluation.metrics import TOKEN_METRICS
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.cross_entropy import vocab_parallel_cross_entropy


@paddle.no_grad()
def evaluate_tokens(
    model: Callable[..., Any],
    batches: Iterable[Mapping[str, Tensor]],
    data_group: ProcessGroup,
) -> dict[str, float]:
    """`TOKEN_METRICS` over all labels that are not -100: mean loss in nats, exp(loss), share of argmax hits.

    model: a `CausalLM`, or any callable that returns `logits` for the batch's arrays as keywords.
    batches: tensors as `Collator` gives them. Each rank of `data_group` passes its part of the batches;
    the totals are summed over the group, so that all ranks return the same values.
    """
    totals = paddle.zeros([3], dtype="float64")
    for batch in batches:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        totals += sum_token_metrics(model(**inputs).logits, batch["labels"])
    if data_group.degree > 1:
        totals = all_reduce(totals, data_group)
    summed, correct, count = (float(total) for total in totals.numpy())
    loss, accuracy = summed / max(count, 1), correct / max(count, 1)
    return dict(zip(TOKEN_METRICS, (loss, math.exp(min(loss, 700.0)), accuracy), strict=True))


def sum_token_metrics(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed cross entropy, number of correct predictions, number of labels that are not -100: float64 [3].

    logits: float32 [batch, length, vocab]; labels: int64 [batch, length], aligned with the inputs: the logits
    at position i are compared with the label at i + 1.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != IGNORE_INDEX
    loss = vocab_parallel_cross_entropy(logits, labels, SINGLE_PROCESS)
    right = paddle.logical_and(logits.argmax(axis=-1) == labels, counted)
    return paddle.stack([part.astype("float64").sum() for part in (loss, right, counted)])
