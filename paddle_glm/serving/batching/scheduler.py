"""Continuous batching: one thread owns the model and generates for all requests together."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from paddle_glm.array_types import Array
from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.generation import GenerationBackend, GenerationParams
from paddle_glm.generation.logits_processors import LogitsProcessor
from paddle_glm.generation.loop import GenerationState
from paddle_glm.generation.sampling import token_logprobs
from paddle_glm.load_memory import InsufficientMemoryError
from paddle_glm.serving.batching.admission import Admission
from paddle_glm.serving.batching.cache_memory import CacheMemory
from paddle_glm.serving.batching.generation_request import (
    GenerationRequest,
    QueueFullError,
    SchedulerClosedError,
    SchedulerObserver,
    TokenListener,
)
from paddle_glm.serving.batching.pace import MAX_WAIT_SECONDS, IdlePieceSize, PieceSize, QueueWait
from paddle_glm.serving.batching.prompt_reader import PromptGroup, PromptReader

if TYPE_CHECKING:
    from paddle_glm.auto.engine import Engine

log = logging.getLogger(__name__)


class Scheduler:
    """Requests join the running batch between two tokens and leave when complete, first come, first served.

    At most `max_batch_size` run and `max_waiting` wait. While requests run, longer prompts are read in pieces
    between their tokens. Keys and values take at most `cache_memory` bytes: requests wait for room, and where
    running ones need more, the one that began last gives its room up and is computed again later (vLLM's
    preemption by recomputation, arXiv:2309.06180). What ended requests leave is kept, within `prefix_memory`,
    for prompts that begin alike. Backends that are no `KVCacheBackend` process one batch after another.
    """

    def __init__(
        self,
        open_engine: Callable[[], "Engine"],
        max_batch_size: int = 16,
        max_waiting: int = 64,
        prefill_chunk: int | None = None,
        cache_memory: int | None = None,
        prefix_memory: int | None = None,
    ) -> None:
        """Open the engine on the scheduler's thread, because device and thread count are per thread.

        prefill_chunk: columns of a piece; None for what takes 1.5 decoding steps, or a second while nothing
        runs. cache_memory: bytes for keys and values in this process; None for half of the free memory.
        prefix_memory: those of them that rows which ended may take; None for half. Raises what `open_engine`
        raises.
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
        self._piece_size, self._idle_piece_size = PieceSize(prefill_chunk), IdlePieceSize(prefill_chunk)
        self._memory_limits = cache_memory, prefix_memory
        self._queue_wait = QueueWait()
        self._logits = np.zeros((0, 0), dtype=np.float32)  # of the running requests' next tokens
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

    @property
    def memory(self) -> CacheMemory:
        """For keys and values."""
        return self._memory

    @property
    def cache_nbytes(self) -> int:
        """Bytes of all keys and values now."""
        return self._memory.nbytes + self._prompts.nbytes

    def submit(
        self,
        prompt: Sequence[int],
        params: GenerationParams,
        listener: TokenListener,
        processors: Sequence[LogitsProcessor] = (),
        top_logprobs: int | None = None,
        adapter: str | None = None,
    ) -> GenerationRequest:
        """Queue a prompt; its listener is called from now on.

        processors: of this request's logits; top_logprobs, adapter: as for `GenerationRequest`.

        Raises `InputError` if the prompt leaves no room for an answer or `params` asks for beam search,
        `QueueFullError` if the queue is full or too slow, `SchedulerClosedError` after `close`.
        """
        if params.num_beams > 1:
            raise InputError(f"num_beams {params.num_beams}: the server does not support beam search")
        last = params.max_total_length(len(prompt), self.engine.backend.max_length)
        most = self._memory.max_tokens or last
        if len(prompt) >= most:
            raise PromptTooLongError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer: the server has memory for "
                f"{most} tokens of a request (--cache_memory)"
            )
        last = min(last, most)
        ids = np.array([prompt], dtype=np.int64)
        state = GenerationState(ids, np.ones_like(ids), params, last - len(prompt), processors)
        prefix_length = self._memory.prefix_length(adapter)
        request = GenerationRequest(list(prompt), listener, state, top_logprobs, adapter, prefix_length)
        with self._condition:
            if self._closed:
                raise SchedulerClosedError("the server is shutting down")
            if len(self._waiting) >= self.max_waiting:
                self._waiting = deque(one for one in self._waiting if not one.cancelled)
            self._check_queue()
            self._waiting.append(request)
            self._condition.notify()
        return request

    def _check_queue(self) -> None:
        """Raise `QueueFullError` if no request more should wait."""
        counts = f"{self.running} requests are running and {self.waiting} are waiting"
        if len(self._waiting) >= self.max_waiting:
            after = self._queue_wait.retry_after(1)
            raise QueueFullError(f"{counts}: try again later", after)
        wait = self._queue_wait.seconds(self.waiting + 1)
        if self._waiting and wait is not None and wait > MAX_WAIT_SECONDS:
            raise QueueFullError(
                f"{counts}, which would take {wait:.0f} s: try again later",
                math.ceil(wait - MAX_WAIT_SECONDS),
            )

    def close(self) -> None:
        """End the thread after the current token; incomplete requests fail with `SchedulerClosedError`."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self, open_engine: Callable[[], "Engine"], opened: "Future[Engine]") -> None:
        try:
            self._backend: GenerationBackend = (engine := open_engine()).backend
            self._memory = CacheMemory(self._backend, *self._memory_limits)
        except BaseException as error:
            opened.set_exception(error)
            return
        can_add_rows = isinstance(self._backend, KVCacheBackend)
        self._admission = Admission(self._memory, self.max_batch_size, can_add_rows)
        self._prompts = PromptReader(self._backend, self._memory.store)
        opened.set_result(engine)
        while not self._closed:
            if requests := self._next_requests():
                self._start(requests)
            if self._prompts.groups:
                self._read()
            if self._running:
                self._step()
        for request in [*self._started, *self._waiting]:
            request.listener.on_failed(SchedulerClosedError("the server is shutting down"))

    @property
    def _started(self) -> list[GenerationRequest]:
        """Those that run, and those that are being read."""
        return self._running + self._prompts.requests

    def _next_requests(self) -> list[GenerationRequest]:
        """The requests to start now; blocks while there is nothing to do."""
        with self._condition:
            while not (self._closed or self._started or self._waiting):
                self._condition.wait()
            return self._admission.take(self._waiting, self._started)

    def _start(self, requests: list[GenerationRequest]) -> None:
        """Begin to read requests that fit into memory together; the others return to the queue."""
        try:
            number = self._admission.number_fitting(requests, self._started, self._prompts.shapes)
        except InputError as error:
            self._fail([requests.pop(0)], error)
            number = 0
        with self._condition:
            self._waiting.extendleft(reversed(requests[number:]))
        requests = requests[:number]
        if not requests:
            return
        try:
            reused = self._prompts.start(requests)
        except Exception as error:
            self._fail(requests, error)
            return
        if reused and not requests[0].state.step:
            self.observer.on_reused(reused)

    def _read(self) -> None:
        """Read a piece of a prompt, which runs after the last one."""
        for group in list(self._prompts.groups):
            if all(request.cancelled for request in group.requests):
                self._drop(group)
        if not self._prompts.groups:
            return
        group, beside = self._prompts.next(), bool(self._running)
        try:
            if not self._prompts.read(group, self._piece_size if beside else self._idle_piece_size):
                return
            self._memory.make_room([request.columns + 1 for request in self._started])
            logits = self._prompts.join(group, replace=not beside)
        except Exception as error:
            if isinstance(error, InsufficientMemoryError) and len(self._started) > len(group.requests):
                self._give_way()
            else:
                self._drop(group)
                self._fail(group.requests, error)
            return
        self._admission.memory_full = False
        self._logits = np.concatenate([self._logits, logits]) if beside else logits
        self._running += group.requests
        for request in group.requests:
            if not request.state.step:
                self.observer.on_prompt(len(request.prompt))

    def _drop(self, group: PromptGroup) -> None:
        self._prompts.drop(group)
        self._admission.memory_full = False

    def _step(self) -> None:
        """Sample a token for every running request, then run the next step for those that continue."""
        rows = [
            row
            for row, request in enumerate(self._running)
            if self._sample(request, self._logits[row : row + 1])
        ]
        ended = sorted(set(range(len(self._running))) - set(rows))
        try:
            if ended:
                self._admission.memory_full = False
                self._queue_wait.on_ended(len(ended), time.monotonic(), bool(self._waiting))
                self._memory.keep(ended)
                self._select(rows)
            if self._running:
                self._logits = self._decode()
        except Exception as error:
            requests, self._running = self._running, []
            self._fail(requests, error)
        if not self._running:
            self._memory.release()

    def _select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self._running = [self._running[row] for row in rows]
        if self._running:
            self._backend.select(np.array(rows))
            if isinstance(self._backend, KVCacheBackend):
                self._backend.drop_padding()

    def _decode(self) -> Array:
        """Compute the running requests' last tokens; where memory is short, without the last."""
        while True:
            try:
                # What is being read may hold keys and values of a stored row.
                self._memory.make_room([request.columns for request in self._started])
                started = time.monotonic()
                last = np.array([request.tokens[-1] for request in self._running], dtype=np.int64)
                logits = self._backend.decode(last)
                self._piece_size.on_step(time.monotonic() - started)
                return logits
            except InsufficientMemoryError:
                if len(self._started) == 1:
                    raise
                self._give_way()

    def _give_way(self) -> None:
        """The requests that began last wait at the head of the queue; all their tokens are read again."""
        if self._prompts.groups:
            requests = (group := self._prompts.groups[-1]).requests
            self._prompts.drop(group)
        else:
            requests = [self._running[-1]]
            self._select(range(len(self._running) - 1))
        with self._condition:
            self._waiting.extendleft(reversed(requests))
        self._admission.memory_full = True
        for _ in requests:
            self.observer.on_preempted()

    def _sample(self, request: GenerationRequest, logits: Array) -> bool:
        """Sample a token and pass it to the listener; whether the request goes on."""
        if request.cancelled:
            return False
        try:
            picked = request.state.sample(logits)
            count = request.top_logprobs
            logprobs = None if count is None else token_logprobs(logits[0], int(picked[0]), count)
            wanted = request.listener.on_token(int(picked[0]), logprobs)
            now = time.monotonic()
            self.observer.on_token(now - request.last_event, is_first=request.state.step == 0)
            request.last_event = now
            request.tokens.append(int(picked[0]))
            if request.state.advance(picked).size and wanted:
                return True
            request.listener.on_finished()
        except Exception as error:
            self._fail([request], error)
        return False

    def _fail(self, requests: Sequence[GenerationRequest], error: Exception) -> None:
        if not isinstance(error, InputError):
            log.error("%d requests failed", len(requests), exc_info=error)
        for request in requests:
            try:
                request.listener.on_failed(error)
            except Exception:
                log.exception("a listener failed")
