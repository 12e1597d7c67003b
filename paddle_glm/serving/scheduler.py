"""Continuous batching: one thread owns the model and generates for all requests together."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.backends.kv_cache import KVCacheBackend, PromptReading
from paddle_glm.errors import InputError
from paddle_glm.generation import (
    ContinuousBatchingBackend,
    GenerationBackend,
    GenerationParams,
    MemoryCheckingBackend,
)
from paddle_glm.generation.logits_processors import LogitsProcessor
from paddle_glm.generation.loop import GenerationState
from paddle_glm.generation.sampling import TokenLogprobs, token_logprobs
from paddle_glm.generation.session import pad_left
from paddle_glm.load_memory import CACHE_TOKENS, InsufficientMemoryError
from paddle_glm.serving.prefix_store import PrefixStore

if TYPE_CHECKING:
    from paddle_glm.auto.engine import Engine

log = logging.getLogger(__name__)

# Columns of a prompt that are read between two tokens of running requests.
PREFILL_CHUNK = 64
# Share of the memory that is free at the start for keys and values of ended requests.
STORE_SHARE = 0.25
# Prompts are prefilled together if padding increases their tokens at most by this factor.
MAX_PADDING_RATIO = 1.5


class QueueFullError(Exception):
    """The queue is full; the request can be retried later."""


class SchedulerClosedError(Exception):
    """The scheduler was closed before the answer was complete."""


class TokenListener(Protocol):
    """Receives an answer; called on the scheduler's thread, so calls must not block."""

    def on_token(self, token: int, logprobs: TokenLogprobs | None) -> bool:
        """Receive a token, including end tokens; return False to end the answer.

        logprobs: the token's, if the request asked for them.
        """

    def on_finished(self) -> None:
        """Called after the last token."""

    def on_failed(self, error: Exception) -> None:
        """Called instead of `on_finished` if generation fails."""


class SchedulerObserver:
    """Is told what a scheduler does, on its thread; does nothing with it."""

    def on_prompt(self, tokens: int) -> None:
        """A prompt was read."""

    def on_reused(self, tokens: int) -> None:
        """So many of a prompt's tokens are not read again."""

    def on_token(self, seconds: float, is_first: bool) -> None:
        """A token was generated, so long after the request's arrival, or after the token before it."""


@dataclass(eq=False)
class GenerationRequest:
    """A request with its prompt (token ids), state and listener.

    top_logprobs: number of alternatives to each token's log probability; None: no log probabilities.
    """

    prompt: list[int]
    listener: TokenListener
    state: GenerationState
    top_logprobs: int | None = None
    cancelled: bool = field(default=False, init=False)
    last_event: float = field(default_factory=time.monotonic, init=False)  # its arrival or last token

    def cancel(self) -> None:
        """Stop generation at the next token, or skip the request if it is waiting."""
        self.cancelled = True


class Scheduler:
    """Requests join the running batch between two tokens and leave when complete, first come, first served.

    At most `max_batch_size` run and `max_waiting` wait. While requests run, longer prompts are read in pieces
    of `prefill_chunk` columns between their tokens. What ended requests leave in the cache is kept, up to
    `prefix_memory` bytes, for prompts that begin alike. Backends that are no `ContinuousBatchingBackend`
    process one batch after another, without either.
    """

    def __init__(
        self,
        open_engine: Callable[[], "Engine"],
        max_batch_size: int = 8,
        max_waiting: int = 64,
        prefill_chunk: int = PREFILL_CHUNK,
        prefix_memory: int | None = None,
    ) -> None:
        """Open the engine on the scheduler's thread, because device and thread count are per thread.

        prefix_memory: None for a share of the free memory. Raises what `open_engine` raises.
        """
        if max_batch_size < 1 or max_waiting < 1:
            raise InputError(
                f"max_batch_size {max_batch_size}, max_waiting {max_waiting}: expected at least 1"
            )
        if threading.current_thread() is threading.main_thread():
            # Eager tensors work only in the first thread that imports Paddle, or in all threads if that is
            # the main one (3.3.1). Some backends do not need Paddle.
            with suppress(ModuleNotFoundError):
                import paddle  # noqa: F401
        self.max_batch_size, self.max_waiting = max_batch_size, max_waiting
        self._waiting: deque[GenerationRequest] = deque()
        self._running: list[GenerationRequest] = []
        self._reading: tuple[list[GenerationRequest], PromptReading] | None = None
        self.prefill_chunk, self._prefix_memory = prefill_chunk, prefix_memory
        self._logits = np.zeros((0, 0), dtype=np.float32)  # of the running requests' next tokens
        self._memory_full = False  # until a running request ends
        self._condition = threading.Condition()
        self._closed = False
        self.observer = SchedulerObserver()
        opened: Future[Engine] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(open_engine, opened), name="generation", daemon=True
        )
        self._thread.start()
        self.engine = opened.result()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(
        self,
        prompt: Sequence[int],
        params: GenerationParams,
        listener: TokenListener,
        processors: Sequence[LogitsProcessor] = (),
        top_logprobs: int | None = None,
    ) -> GenerationRequest:
        """Queue a prompt; its listener is called from now on.

        processors: of this request's logits; top_logprobs: as for `GenerationRequest`.

        Raises `InputError` if the prompt leaves no room for an answer or `params` asks for beam search,
        `QueueFullError` if the queue is full, `SchedulerClosedError` after `close`.
        """
        if params.num_beams > 1:
            raise InputError(f"num_beams {params.num_beams}: the server does not support beam search")
        last = params.max_total_length(len(prompt), self.engine.backend.max_length)
        ids = np.array([prompt], dtype=np.int64)
        state = GenerationState(ids, np.ones_like(ids), params, last - len(prompt), processors)
        request = GenerationRequest(list(prompt), listener, state, top_logprobs)
        with self._condition:
            if self._closed:
                raise SchedulerClosedError("the server is shutting down")
            if len(self._waiting) >= self.max_waiting:
                self._waiting = deque(one for one in self._waiting if not one.cancelled)
            if len(self._waiting) >= self.max_waiting:
                raise QueueFullError(
                    f"{self.running} requests are running and {self.waiting} are waiting: try again later"
                )
            self._waiting.append(request)
            self._condition.notify()
        return request

    def close(self) -> None:
        """End the thread after the current token; incomplete requests fail with `SchedulerClosedError`."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self, open_engine: Callable[[], "Engine"], opened: "Future[Engine]") -> None:
        try:
            self._backend: GenerationBackend = (engine := open_engine()).backend
        except BaseException as error:
            opened.set_exception(error)
            return
        self._can_add_rows = isinstance(self._backend, ContinuousBatchingBackend)
        # Where tokens attend to later ones, a prompt is read whole and its beginning depends on its end.
        self._reader: KVCacheBackend | None = None
        if isinstance(self._backend, KVCacheBackend) and self._backend.family.is_causal:
            self._reader = self._backend
        self._store = PrefixStore(self._store_nbytes())
        opened.set_result(engine)
        while not self._closed:
            if self._reading is None and (requests := self._next_requests()):
                self._start(requests)
            if self._reading is not None:
                self._read(*self._reading)
            if self._running:
                self._step()
        reading = [] if self._reading is None else self._reading[0]
        for request in [*self._running, *reading, *self._waiting]:
            request.listener.on_failed(SchedulerClosedError("the server is shutting down"))

    def _next_requests(self) -> list[GenerationRequest]:
        """The requests to start now; blocks while there is nothing to do."""
        with self._condition:
            while not (self._closed or self._running or self._waiting):
                self._condition.wait()
            room = self.max_batch_size - len(self._running)
            if self._running and (self._memory_full or not self._can_add_rows):
                room = 0
            requests: list[GenerationRequest] = []
            while self._waiting and len(requests) < room:
                if self._can_add_rows and not _similar_lengths([*requests, self._waiting[0]]):
                    break  # prefilled after the next token
                if requests and self._store.find(self._waiting[0].prompt) is not None:
                    break  # its own cache begins with what is stored
                request = self._waiting.popleft()
                if not request.cancelled:
                    requests.append(request)
            return requests

    def _start(self, requests: list[GenerationRequest]) -> None:
        """Prefill requests together, or begin to; if that fails, the running ones continue."""
        try:
            requests = self._fitting(requests)
        except InputError as error:
            self._fail(requests, error)
            return
        if not requests:
            return
        batch = pad_left([request.prompt for request in requests], requests[0].state.params.pad_token_id)
        stored = self._store.find(requests[0].prompt) if len(requests) == 1 else None
        in_pieces = bool(self._running) and batch[0].shape[1] > self.prefill_chunk
        try:
            if self._reader is not None and (in_pieces or stored is not None):
                self._reading = requests, self._reader.start_reading(*batch, stored)
                self.observer.on_reused(self._reading[1].columns_read)
                return
            if not self._running:
                self._logits = self._backend.prefill(*batch)
            else:
                assert isinstance(self._backend, ContinuousBatchingBackend)
                self._logits = np.concatenate([self._logits, self._backend.add_rows(*batch)])
        except Exception as error:
            self._fail(requests, error)
        else:
            self._prefilled(requests)

    def _read(self, requests: list[GenerationRequest], reading: PromptReading) -> None:
        """Read a piece of the prompts, all of them where nobody waits for a token; join after the last."""
        assert self._reader is not None
        if all(request.cancelled for request in requests):
            self._reading = None
            return
        tokens = self.prefill_chunk if self._running else reading.input_ids.shape[1]
        try:
            logits = self._reader.read(reading, tokens)
            if logits is None:
                return
            self._reader.join(reading, replace=not self._running)
            self._logits = np.concatenate([self._logits, logits]) if self._running else logits
        except Exception as error:
            self._fail(requests, error)
        else:
            self._prefilled(requests)
        self._reading = None

    def _prefilled(self, requests: list[GenerationRequest]) -> None:
        self._running += requests
        for request in requests:
            self.observer.on_prompt(len(request.prompt))

    def _store_nbytes(self) -> int:
        """Bytes for keys and values of ended requests."""
        if self._prefix_memory is not None or self._reader is None:
            return self._prefix_memory or 0
        budget = self._reader.memory_budget()
        return 0 if budget is None else int(STORE_SHARE * budget.free)

    def _keep_ended(self, kept_rows: Sequence[int]) -> None:
        """Store what the rows that are not kept leave in the cache."""
        if self._reader is None or not self._store.max_nbytes:
            return
        for row in set(range(len(self._running))) - set(kept_rows):
            self._store.add(self._reader.row_cache(row))

    def _fitting(self, requests: list[GenerationRequest]) -> list[GenerationRequest]:
        """The leading requests whose KV cache fits into memory; the others return to the queue.

        Raises `InsufficientMemoryError` if a request does not fit while nothing is running.
        """
        if not isinstance(self._backend, MemoryCheckingBackend):
            return requests
        self._memory_full = False
        while requests:
            together = [*self._running, *requests]
            # All rows are as long as the longest one.
            length = max(len(request.prompt) + request.state.step for request in together)
            try:
                self._backend.check_cache_fits(len(together), length, max(map(_expected_tokens, together)))
                break
            except InsufficientMemoryError:
                if self._store.drop_oldest():
                    continue
                if not self._running and len(requests) == 1:
                    raise
                with self._condition:
                    self._waiting.appendleft(requests.pop())
                self._memory_full = True
        return requests

    def _step(self) -> None:
        """Sample a token for every running request, then run the next step for those that continue."""
        kept_rows, tokens = [], []
        for row, request in enumerate(self._running):
            token = self._next_token(request, self._logits[row : row + 1])
            if token is not None:
                kept_rows.append(row)
                tokens.append(token)
        dropped = len(kept_rows) < len(self._running)
        self._memory_full = self._memory_full and not dropped
        if dropped:
            self._keep_ended(kept_rows)
        self._running = [self._running[row] for row in kept_rows]
        if not self._running:
            return
        try:
            if dropped:
                self._backend.select(np.array(kept_rows))
                if isinstance(self._backend, ContinuousBatchingBackend):
                    self._backend.drop_padding()
            self._logits = self._backend.decode(np.array(tokens, dtype=np.int64))
        except Exception as error:
            requests, self._running = self._running, []
            self._fail(requests, error)

    def _next_token(self, request: GenerationRequest, logits: Array) -> int | None:
        """Sample a token and pass it to the listener; return it, or None if the request ends."""
        if request.cancelled:
            return None
        try:
            picked = request.state.sample(logits)
            count = request.top_logprobs
            logprobs = None if count is None else token_logprobs(logits[0], int(picked[0]), count)
            wanted = request.listener.on_token(int(picked[0]), logprobs)
            now = time.monotonic()
            self.observer.on_token(now - request.last_event, is_first=request.state.step == 0)
            request.last_event = now
            if request.state.advance(picked).size and wanted:
                return int(picked[0])
            request.listener.on_finished()
        except Exception as error:
            self._fail([request], error)
        return None

    def _fail(self, requests: Sequence[GenerationRequest], error: Exception) -> None:
        if not isinstance(error, InputError):
            log.error("%d requests failed", len(requests), exc_info=error)
        for request in requests:
            try:
                request.listener.on_failed(error)
            except Exception:
                log.exception("a listener failed")


def _expected_tokens(request: GenerationRequest) -> int:
    """The number of further tokens to reserve memory for; see `KVCacheBackend.check_cache_fits`."""
    left = request.state.max_steps - request.state.step
    return left if request.state.params.max_new_tokens is not None else min(left, CACHE_TOKENS)


def _similar_lengths(requests: Sequence[GenerationRequest]) -> bool:
    """Whether the prompts are similar enough in length to be prefilled together."""
    lengths = [len(request.prompt) for request in requests]
    return max(lengths) * len(lengths) <= MAX_PADDING_RATIO * sum(lengths)
