"""The one generation loop: any backend, any number of rows, one column of tokens per step."""

from collections.abc import Iterator

import numpy as np

from paddle_glm.errors import InputError
from paddle_glm.generation.beam import beam_search
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.sampling import Sampler, SeenTokens, check_finite, penalise
from paddle_glm.generation.step_backend import StepBackend


def generate(
    backend: StepBackend, input_ids: np.ndarray, attention_mask: np.ndarray, params: GenerationParams
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
        return iter(beam_search(backend, input_ids, attention_mask, params, steps).T)
    return _generate(backend, input_ids, attention_mask, params, steps)


def _generate(
    backend: StepBackend,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    params: GenerationParams,
    steps: int,
) -> Iterator[np.ndarray]:
    batch = len(input_ids)
    sampler = Sampler(params, batch)
    running = np.arange(batch)  # places in the batch of the rows which the backend still holds
    logits = backend.prefill(input_ids, attention_mask)
    seen = None
    if params.repetition_penalty != 1.0:
        seen = SeenTokens(input_ids, attention_mask, logits.shape[-1])
    for step in range(steps):
        check_finite(logits, step)
        if seen is not None:
            logits = penalise(logits, seen.mask, params.repetition_penalty)
        tokens = backend.agree(sampler.pick(logits, running))
        column = np.full(batch, params.pad_token_id, dtype=np.int64)
        column[running] = tokens
        yield column
        alive = np.flatnonzero(~np.isin(tokens, params.eos_token_ids))
        if alive.size == 0 or step + 1 == steps:
            return
        if seen is not None:
            seen.add(tokens)
        if alive.size < tokens.size:  # complete rows cost nothing from here on
            backend.select(alive)
            running, tokens = running[alive], tokens[alive]
            if seen is not None:
                seen.select(alive)
        logits = backend.decode(tokens)
