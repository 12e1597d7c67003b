"""What is measured on rows held out: the loss and accuracy per token, and generated answers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import paddle
import paddle.distributed as dist
from paddle import Tensor
from tqdm.auto import tqdm

from paddle_glm.backends.dygraph import DygraphBackend
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.response import parse_messages, visible_text
from paddle_glm.generation.session import complete, with_special_ids
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import SINGLE, TPGroup
from paddle_glm.parallel.ops import IGNORE_INDEX, all_reduce, vocab_parallel_cross_entropy
from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.training.data import GenerationDataset
from paddle_glm.training.metrics import score
from paddle_glm.training.rows import EvaluationRows
from paddle_glm.training.sampler import EvalSampler


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


class AnswerMetrics:
    """Answers the prompts of `EvaluationRows` and scores the answers: ROUGE-1/2/L, BLEU-4.

    Greedy, at most `tgt_length` tokens. Data-parallel processes share the prompts out, and each ends up
    with all answers and the same scores.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        batch_size: int,
        tgt_length: int,
        data: TPGroup,
        progress: bool = False,
    ) -> None:
        self.backend = DygraphBackend(model)
        self.tokenizer, self.batch_size, self.data = tokenizer, batch_size, data
        self.progress = progress
        params = GenerationParams(do_sample=False, max_new_tokens=tgt_length)
        self.params = with_special_ids(params, tokenizer, tokenizer.template)

    def __call__(self, rows: EvaluationRows, limit: int = -1) -> dict[str, float]:
        """limit: batches per data-parallel process, -1 for all."""
        if rows.answers is None:
            return {}
        answers = self.answer(rows.answers, limit)
        places = sorted(answers)
        references = [rows.answers.references[place] or "" for place in places]
        return score([answers[place] for place in places], references)

    def answer(self, prompts: GenerationDataset, limit: int = -1) -> dict[int, str]:
        """The text of the answer to each prompt, by the prompt's place."""
        mine: dict[int, str] = {}
        sampler = EvalSampler(prompts, self.batch_size, self.data.degree, self.data.rank, limit)
        for places in tqdm(sampler, desc="answering", disable=not self.progress, leave=False):
            ids = complete(self.backend, [prompts.prompts[place] for place in places], self.params)
            mine.update(zip(places, (self.text(tokens) for tokens in ids), strict=True))
        if self.data.degree == 1:
            return mine
        parts: list[dict[int, str]] = []
        dist.all_gather_object(parts, mine, group=self.data.handle)
        return {place: text for part in parts for place, text in part.items()}

    def text(self, ids: list[int]) -> str:
        """The answer without special tokens and without the replacements that are made for display."""
        template = replace(self.tokenizer.template, replacements=())
        return visible_text(parse_messages(template, self.tokenizer.decode(ids, skip_special_tokens=True)))
