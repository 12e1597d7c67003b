"""Generates answers to held-out prompts and scores them."""

import paddle.distributed as dist

from paddle_glm.array_types import IntArray
from paddle_glm.data.datasets import EvaluationDataset
from paddle_glm.evaluation.batch_generation import generate_for_scoring
from paddle_glm.evaluation.metrics import score
from paddle_glm.generation.params import GenerationParams
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel import ProcessGroup
from paddle_glm.tokenizers.base import Tokenizer


class GenerationMetrics:
    """Generates answers to the prompts of an `EvaluationDataset` and scores them: ROUGE-1/2/L, BLEU-4.

    The prompts are distributed over the data-parallel ranks; every rank gets all answers and the same
    scores. `predictions` holds the answers of the last call.
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
        """Scores by name, empty without references. limit: batches per data-parallel rank, -1 for all."""
        if rows.generation is None:
            return {}
        count = len(rows.generation)
        if limit >= 0:
            count = min(count, limit * self.batch_size * self.data_group.degree)
        self.predictions = self.generate(rows.generation.prompts[:count])
        pairs = zip(self.predictions, rows.generation.references, strict=False)
        known = [(answer, reference) for answer, reference in pairs if reference is not None]
        return score(*zip(*known, strict=True)) if known else {}

    def generate(self, prompts: list[IntArray]) -> list[str]:
        """The answer to each prompt (int64 [prompt_length]), on every rank, in the order given."""
        degree, rank = self.data_group.degree, self.data_group.rank
        mine = generate_for_scoring(
            self.backend, self.tokenizer, prompts[rank::degree], self.params, self.batch_size, self.progress
        )
        if degree == 1:
            return mine
        parts: list[list[str]] = []
        dist.all_gather_object(parts, mine, group=self.data_group.handle)
        return [parts[place % degree][place // degree] for place in range(len(prompts))]
