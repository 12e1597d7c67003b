"""What is measured on rows held out: the loss and accuracy per token, and generated answers."""

import math
from collections.abc import Iterable, Mapping

import paddle
import paddle.distributed as dist
from paddle import Tensor

from paddle_glm.array_types import Array
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.collectives import IGNORE_INDEX, all_reduce, vocab_parallel_cross_entropy
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.training.batch_generation import generate_all
from paddle_glm.training.metrics import METRIC_NAMES, check_metric_packages, score
from paddle_glm.training.run_datasets import EvaluationDataset

TOKEN_METRICS = ("loss", "perplexity", "accuracy")


def check_requested_metrics(best: str | None, answers: bool) -> None:
    """Raise `InputError` before a run where an evaluation will not give what is asked for.

    best: `--metric_for_best_model`; answers: whether answers are generated and scored.
    """
    if answers:
        check_metric_packages()
    known = (*TOKEN_METRICS, *(METRIC_NAMES if answers else ()))
    if best is not None and best.removeprefix("eval_") not in known:
        more = "" if answers else f", with --do_generation also {', '.join(METRIC_NAMES)}"
        raise InputError(f"--metric_for_best_model {best}: evaluation gives {', '.join(known)}{more}")


@paddle.no_grad()
def evaluate_tokens(
    model: CausalLM, batches: Iterable[Mapping[str, Tensor]], data_group: ProcessGroup
) -> dict[str, float]:
    """`loss` (mean over all answer tokens), `perplexity` and `accuracy` (share predicted exactly).

    Every process of `data_group` brings its share of the batches; all get the same numbers.
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
    """Summed cross entropy, right predictions and number of labels that count: float64 [3].

    logits: float32 [batch, tokens, vocab]; labels: int64 [batch, tokens], aligned with the inputs, each
    predicted from the tokens before it.
    """
    logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != IGNORE_INDEX
    loss = vocab_parallel_cross_entropy(logits, labels, SINGLE_PROCESS)
    right = paddle.logical_and(logits.argmax(axis=-1) == labels, counted)
    return paddle.stack([part.astype("float64").sum() for part in (loss, right, counted)])


class GenerationMetrics:
    """Answers the prompts of `EvaluationDataset` and scores the answers: ROUGE-1/2/L, BLEU-4.

    Data-parallel processes share the prompts out, and each ends up with all answers and the same scores.
    `predictions` are those of the last call.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        batch_size: int,
        params: GenerationParams,
        data_group: ProcessGroup,
        progress: bool = False,
    ) -> None:
        self.backend = DygraphBackend(model)
        self.tokenizer, self.batch_size, self.data_group, self.progress = (
            tokenizer,
            batch_size,
            data_group,
            progress,
        )
        self.params = params
        self.predictions: list[str] = []

    def __call__(self, rows: EvaluationDataset, limit: int = -1) -> dict[str, float]:
        """limit: batches per data-parallel process, -1 for all. Rows without an answer are not scored."""
        if rows.generation is None:
            return {}
        count = len(rows.generation)
        if limit >= 0:
            count = min(count, limit * self.batch_size * self.data_group.degree)
        self.predictions = self.generate(rows.generation.prompts[:count])
        pairs = zip(self.predictions, rows.generation.references, strict=False)
        known = [(answer, reference) for answer, reference in pairs if reference is not None]
        return score(*zip(*known, strict=True)) if known else {}

    def generate(self, prompts: list[Array]) -> list[str]:
        """The text of the answer to each prompt (int64 ids), on every process."""
        degree, rank = self.data_group.degree, self.data_group.rank
        mine = generate_all(
            self.backend, self.tokenizer, prompts[rank::degree], self.params, self.batch_size, self.progress
        )
        if degree == 1:
            return mine
        parts: list[list[str]] = []
        dist.all_gather_object(parts, mine, group=self.data_group.handle)
        return [parts[place % degree][place // degree] for place in range(len(prompts))]
