"""The one generation loop: any backend, any number of rows, one column of tokens per step."""

from collections.abc import Iterator, Sequence

import numpy as np

from paddle_glm.errors import InputError
from paddle_glm.generation.beam import beam_search
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.processors import LogitsProcessor, Processors
from paddle_glm.generation.sampling import Sampler, check_finite
from paddle_glm.generation.step_backend import StepBackend


class Rows:
    """The rows of one call while they are generated: what they have seen, which still run, when they stop.

    input_ids, attention_mask: int64 [batch, length], padded on the left; steps: most tokens of an answer;
    processors: of the caller.
    """

    def __init__(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        params: GenerationParams,
        steps: int,
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self.params = params
        self.steps = steps
        self.step = 0
        self.running = np.arange(len(input_ids))  # places in the batch of the rows that are not complete
        self._sampler = Sampler(params, len(input_ids))
        self._processors = Processors(params, processors, input_ids, attention_mask)

    def pick(self, logits: np.ndarray) -> np.ndarray:
        """The next token, int64 [running], from logits float32 [running, vocab].

        Raises `InputError` for logits that are not finite.
        """
        check_finite(logits, self.step)
        return self._sampler.pick(self._processors(logits), self.running)

    def advance(self, tokens: np.ndarray) -> np.ndarray:
        """Take int64 [running]; returns the places among them that go on, none when the length is reached."""
        self.step += 1
        if self.step == self.steps:
            alive = np.arange(0)
        else:
            alive = np.flatnonzero(~np.isin(tokens, self.params.eos_token_ids))
        self._processors.add(tokens)
        self._processors.select(alive)
        self.running = self.running[alive]
        return alive


def generate(
    backend: StepBackend,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    params: GenerationParams,
    processors: Sequence[LogitsProcessor] = (),
) -> Iterator[np.ndarray]:
    """Yield int64 [batch] per step until every row has met an end token or the length is reached.

    input_ids, attention_mask: int64 [batch, length], padded on the left (mask 0). A row that is complete
    yields its end token once and `pad_token_id` from then on. Beam search yields when it is over.
    Raises `InputError` for shapes that do not match, a prompt without room, or logits that are not finite.
    """
    input_ids = np.asarray(input_ids, dtype=np.int64)
    attention_mask = np.asarray(attention_mask, dtype=np.int64)
    if input_ids.ndim != 2 or 0 in input_ids.shape or attention_mask.shape != input_ids.shape:
        raise InputError(
            f"input_ids {input_ids.shape} and attention_mask {attention_mask.shape} must have one shape "
            "[batch, length] with at least one token"
        )
    if not attention_mask[:, -1].all():
        raise InputError("the last column of attention_mask holds padding: pad batches on the left")
    last = params.last_length(input_ids.shape[1], backend.max_length)
    steps = last - input_ids.shape[1]
    if params.num_beams > 1:
        return iter(beam_search(backend, input_ids, attention_mask, params, steps, processors).T)
    rows = Rows(input_ids, attention_mask, params, steps, processors)
    return _generate(backend, input_ids, attention_mask, rows)


def _generate(
    backend: StepBackend, input_ids: np.ndarray, attention_mask: np.ndarray, rows: Rows
) -> Iterator[np.ndarray]:
    logits = backend.prefill(input_ids, attention_mask)
    while True:
        tokens = backend.agree(rows.pick(logits))
        column = np.full(len(input_ids), rows.params.pad_token_id, dtype=np.int64)
        column[rows.running] = tokens
        yield column
        alive = rows.advance(tokens)
        if alive.size == 0:
            return
        if alive.size < tokens.size:  # complete rows cost nothing from here on
            backend.select(alive)
            tokens = tokens[alive]
        logits = backend.decode(tokens)
