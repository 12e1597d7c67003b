"""Which waiting requests join the running ones: those that there are rows and memory for."""

from collections import deque
from collections.abc import Sequence

from paddle_glm.generation import ContinuousBatchingBackend, GenerationBackend, MemoryCheckingBackend
from paddle_glm.load_memory import CACHE_TOKENS, InsufficientMemoryError
from paddle_glm.serving.generation_request import GenerationRequest
from paddle_glm.serving.prefix_store import PrefixStore

# Prompts are prefilled together if padding increases their tokens at most by this factor.
MAX_PADDING_RATIO = 1.5


class Admission:
    """Decides which requests start, first come, first served."""

    def __init__(self, backend: GenerationBackend, store: PrefixStore, max_batch_size: int) -> None:
        """store: gives up its rows where memory is short."""
        self._backend, self._store, self._max_batch_size = backend, store, max_batch_size
        self._can_add_rows = isinstance(backend, ContinuousBatchingBackend)
        self.memory_full = False  # until a running request ends

    def take(
        self, waiting: deque[GenerationRequest], running: Sequence[GenerationRequest]
    ) -> list[GenerationRequest]:
        """Remove the requests to start together from those that wait, without regard to memory."""
        room = self._max_batch_size - len(running)
        if running and (self.memory_full or not self._can_add_rows):
            room = 0
        requests: list[GenerationRequest] = []
        while waiting and len(requests) < room:
            if self._can_add_rows and not _similar_lengths([*requests, waiting[0]]):
                break  # prefilled after the next token
            if requests and waiting[0].adapter != requests[0].adapter:
                break  # prompts that are read together have one adapter
            if requests and self._store.find(waiting[0].prompt, waiting[0].adapter) is not None:
                break  # its own cache begins with what is stored
            request = waiting.popleft()
            if not request.cancelled:
                requests.append(request)
        return requests

    def number_fitting(
        self, requests: Sequence[GenerationRequest], running: Sequence[GenerationRequest]
    ) -> int:
        """How many of the first requests have a KV cache that fits into memory beside the running ones.

        Raises `InsufficientMemoryError` if a request does not fit while nothing is running.
        """
        if not isinstance(self._backend, MemoryCheckingBackend):
            return len(requests)
        self.memory_full = False
        number = len(requests)
        while number:
            together = [*running, *requests[:number]]
            # All rows are as long as the longest one.
            length = max(len(request.prompt) + request.state.step for request in together)
            try:
                self._backend.check_cache_fits(len(together), length, max(map(_expected_tokens, together)))
                break
            except InsufficientMemoryError:
                if self._store.drop_oldest():
                    continue
                if not running and number == 1:
                    raise
                number -= 1
                self.memory_full = True
        return number


def _expected_tokens(request: GenerationRequest) -> int:
    """The number of further tokens to reserve memory for; see `KVCacheBackend.check_cache_fits`."""
    left = request.state.max_steps - request.state.step
    return left if request.state.params.max_new_tokens is not None else min(left, CACHE_TOKENS)


def _similar_lengths(requests: Sequence[GenerationRequest]) -> bool:
    """Whether the prompts are similar enough in length to be prefilled together."""
    lengths = [len(request.prompt) for request in requests]
    return max(lengths) * len(lengths) <= MAX_PADDING_RATIO * sum(lengths)
