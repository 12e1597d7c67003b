"""Many requests over one model: a thread of its own owns the model and generates all of them together."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationParams, JoiningBackend
from paddle_glm.generation.loop import Rows
from paddle_glm.generation.session import pad_left

if TYPE_CHECKING:
    from paddle_glm.backends.folder import Engine

log = logging.getLogger(__name__)

# Prompts are read together while these, padding included, are at most so many times their own tokens.
MOST_PADDING = 1.5


class Busy(Exception):
    """The queue is full: the request may come again later."""


class Closed(Exception):
    """The scheduler ended before the answer did."""


class Listener(Protocol):
    """Who waits for an answer; called on the scheduler's thread, so each call has to return at once."""

    def token(self, token: int) -> bool:
        """Take the next token, end tokens too; False ends the answer."""

    def finished(self) -> None:
        """There are no more tokens."""

    def failed(self, error: Exception) -> None:
        """There will be no more tokens, because of `error`."""


@dataclass(eq=False)
class Job:
    """A request: its prompt, its parameters, and who listens."""

    prompt: list[int]
    listener: Listener
    rows: Rows
    cancelled: bool = field(default=False, init=False)

    def cancel(self) -> None:
        """Nobody listens any more: generation stops at the next token, a waiting request is left out."""
        self.cancelled = True


class Scheduler:
    """Continuous batching: requests join the running ones between two tokens, and leave when complete.

    The oldest request goes first. At most `max_batch_size` run together and `max_waiting` wait. A backend
    that cannot take rows up while others run (no `JoiningBackend`) gets one batch after the other.
    """

    def __init__(
        self, open_engine: Callable[[], "Engine"], max_batch_size: int = 8, max_waiting: int = 64
    ) -> None:
        """Opens the engine on the scheduler's thread (devices and thread counts belong to a thread).

        Raises what `open_engine` raises.
        """
        if max_batch_size < 1 or max_waiting < 1:
            raise InputError(
                f"max_batch_size {max_batch_size}, max_waiting {max_waiting}: expected at least 1"
            )
        if threading.current_thread() is threading.main_thread():
            # Eager tensors are for the thread that imports it first, and for all where that is the main one
            # (Paddle 3.3.1). Some backends need none.
            with suppress(ModuleNotFoundError):
                import paddle  # noqa: F401
        self.max_batch_size, self.max_waiting = max_batch_size, max_waiting
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._logits = np.zeros((0, 0), dtype=np.float32)  # of the running jobs' next tokens
        self._changed = threading.Condition()
        self._closed = False
        opened: Future[Engine] = Future()
        self._thread = threading.Thread(
            target=self._work, args=(open_engine, opened), name="generation", daemon=True
        )
        self._thread.start()
        self.engine = opened.result()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, prompt: Sequence[int], params: GenerationParams, listener: Listener) -> Job:
        """Queue a prompt; the listener hears of it from now on.

        Raises `InputError` where the prompt leaves no room for an answer or `params` asks for beam search,
        `Busy` where the queue is full, `Closed` after `close`.
        """
        if params.num_beams > 1:
            raise InputError(f"num_beams {params.num_beams}: requests that run together take no beam search")
        last = params.last_length(len(prompt), self.engine.backend.max_length)
        ids = np.array([prompt], dtype=np.int64)
        rows = Rows(ids, np.ones_like(ids), params, last - len(prompt))
        job = Job(list(prompt), listener, rows)
        with self._changed:
            if self._closed:
                raise Closed("the server is shutting down")
            if len(self._waiting) >= self.max_waiting:
                self._waiting = deque(one for one in self._waiting if not one.cancelled)
            if len(self._waiting) >= self.max_waiting:
                raise Busy(f"{self.running} requests are answered and {self.waiting} wait: try again later")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """End the thread after the present token; requests that are not complete fail with `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self, open_engine: Callable[[], "Engine"], opened: "Future[Engine]") -> None:
        try:
            self._backend = (engine := open_engine()).backend
        except BaseException as error:
            opened.set_exception(error)
            return
        self._joins = isinstance(self._backend, JoiningBackend)
        opened.set_result(engine)
        while not self._closed:
            if jobs := self._next_jobs():
                self._begin(jobs)
            if self._running:
                self._step()
        for job in [*self._running, *self._waiting]:
            job.listener.failed(Closed("the server is shutting down"))

    def _next_jobs(self) -> list[Job]:
        """The jobs to begin now; waits while there is nothing to do at all."""
        with self._changed:
            while not (self._closed or self._running or self._waiting):
                self._changed.wait()
            room = self.max_batch_size - len(self._running)
            if self._running and not self._joins:
                room = 0
            jobs: list[Job] = []
            while self._waiting and len(jobs) < room:
                if self._joins and not _alike([*jobs, self._waiting[0]]):
                    break  # it joins after the next token
                job = self._waiting.popleft()
                if not job.cancelled:
                    jobs.append(job)
            return jobs

    def _begin(self, jobs: list[Job]) -> None:
        """Run the prompts, together; where that fails, those that run already go on."""
        batch = pad_left([job.prompt for job in jobs], jobs[0].rows.params.pad_token_id)
        try:
            if not self._running:
                self._logits = self._backend.prefill(*batch)
            else:
                assert isinstance(self._backend, JoiningBackend)
                self._logits = np.concatenate([self._logits, self._backend.join(*batch)])
        except Exception as error:
            self._fail(jobs, error)
        else:
            self._running += jobs

    def _step(self) -> None:
        """One token for every running job, then the model's next step over those that go on."""
        places, tokens = [], []
        for place, job in enumerate(self._running):
            token = self._next_token(job, self._logits[place : place + 1])
            if token is not None:
                places.append(place)
                tokens.append(token)
        dropped = len(places) < len(self._running)
        self._running = [self._running[place] for place in places]
        if not self._running:
            return
        try:
            if dropped:
                self._backend.select(np.array(places))
                if isinstance(self._backend, JoiningBackend):
                    self._backend.trim()
            self._logits = self._backend.decode(np.array(tokens, dtype=np.int64))
        except Exception as error:
            jobs, self._running = self._running, []
            self._fail(jobs, error)

    def _next_token(self, job: Job, logits: np.ndarray) -> int | None:
        """The job's next token, given to its listener; None where it does not go on."""
        if job.cancelled:
            return None
        try:
            picked = job.rows.pick(logits)
            wanted = job.listener.token(int(picked[0]))
            if job.rows.advance(picked).size and wanted:
                return int(picked[0])
            job.listener.finished()
        except Exception as error:
            self._fail([job], error)
        return None

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        if not isinstance(error, InputError):
            log.error("%d requests failed", len(jobs), exc_info=error)
        for job in jobs:
            try:
                job.listener.failed(error)
            except Exception:
                log.exception("a listener failed")


def _alike(jobs: Sequence[Job]) -> bool:
    """Whether the prompts' lengths differ so little that reading them together costs little."""
    lengths = [len(job.prompt) for job in jobs]
    return max(lengths) * len(lengths) <= MOST_PADDING * sum(lengths)
