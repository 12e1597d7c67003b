"""The generation loop, for any backend and batch size."""

from collections.abc import Iterator, Sequence

import numpy as np

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.errors import InputError
from paddle_glm.generation.backend_protocol import GenerationBackend, MemoryCheckingBackend
from paddle_glm.generation.beam import beam_search
from paddle_glm.generation.logits_processors import LogitsProcessor, LogitsProcessorList
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.sampling import Sampler, check_finite


class GenerationState:
    """State of the rows of one call: sampler, logits processors, and which rows are still running.

    input_ids, attention_mask: int64 [batch, length], left-padded; max_steps: maximum tokens of an answer;
    processors: the caller's logits processors.
    """

    def __init__(
        self,
        input_ids: IntArray,
        attention_mask: IntArray,
        params: GenerationParams,
        max_steps: int,
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self.params = params
        self.max_steps = max_steps
        self.step = 0
        self.running = np.arange(len(input_ids))  # batch indices of unfinished rows
        self._sampler = Sampler(params, len(input_ids))
        self._processors = LogitsProcessorList(params, processors, input_ids, attention_mask)

    def sample(self, logits: FloatArray) -> IntArray:
        """The next token, int64 [running], from logits float32 [running, vocab].

        Raises `InputError` for non-finite logits.
        """
        check_finite(logits, self.step)
        return self._sampler.sample(self._processors(logits), self.running)

    def advance(self, tokens: IntArray) -> IntArray:
        """Append tokens int64 [running]; return the indices that continue, none at the maximum length."""
        self.step += 1
        if self.step == self.max_steps:
            unfinished = np.arange(0)
        else:
            unfinished = np.flatnonzero(~np.isin(tokens, self.params.eos_token_ids))
        self._processors.add(tokens)
        self._processors.select(unfinished)
        self.running = self.running[unfinished]
        return unfinished


def generate(
    backend: GenerationBackend,
    input_ids: IntArray,
    attention_mask: IntArray,
    params: GenerationParams,
    processors: Sequence[LogitsProcessor] = (),
) -> Iterator[IntArray]:
    """Yield tokens int64 [batch] per step until every row has an end token or the maximum length is reached.

    input_ids, attention_mask: int64 [batch, length], left-padded (mask 0). A finished row yields its end
    token once, then `pad_token_id`. Beam search yields all tokens at the end.
    Raises `InputError` for mismatched shapes, a prompt that leaves no room, a KV cache that does not fit into
    memory, and non-finite logits.
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
    last = params.max_total_length(input_ids.shape[1], backend.max_length)
    max_steps = last - input_ids.shape[1]
    if isinstance(backend, MemoryCheckingBackend):
        new_tokens = None if params.max_new_tokens is None else max_steps
        backend.check_cache_fits(len(input_ids) * params.num_beams, input_ids.shape[1], new_tokens)
    if params.num_beams > 1:
        return iter(beam_search(backend, input_ids, attention_mask, params, max_steps, processors).T)
    state = GenerationState(input_ids, attention_mask, params, max_steps, processors)
    return _generate(backend, input_ids, attention_mask, state)


def _generate(
    backend: GenerationBackend, input_ids: IntArray, attention_mask: IntArray, state: GenerationState
) -> Iterator[IntArray]:
    logits = backend.prefill(input_ids, attention_mask)
    while True:
        tokens = backend.broadcast(state.sample(logits))
        column = np.full(len(input_ids), state.params.pad_token_id, dtype=np.int64)
        column[state.running] = tokens
        yield column
        unfinished = state.advance(tokens)
        if unfinished.size == 0:
            return
        if unfinished.size < tokens.size:  # drop finished rows
            backend.select(unfinished)
            tokens = tokens[unfinished]
        logits = backend.decode(tokens)
