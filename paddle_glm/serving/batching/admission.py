"""Which waiting requests join the running ones: those that there are rows and memory for."""

from collections import deque
from collections.abc import Sequence

from paddle_glm.load_memory import InsufficientMemoryError
from paddle_glm.serving.batching.cache_memory import CacheMemory
from paddle_glm.serving.batching.generation_request import GenerationRequest

# Prompts are read together if padding increases their tokens at most by this factor,
MAX_PADDING_RATIO = 1.5
# and up to so many tokens, padding included: what a step computes is in memory at once.
MAX_TOKENS_TOGETHER = 2048
# Tokens of each answer that memory is kept for. Longer ones may lose theirs, and are computed again.
RESERVED_TOKENS = 256


class Admission:
    """Decides which requests start, first come, first served."""

    def __init__(self, memory: CacheMemory, max_batch_size: int, can_add_rows: bool) -> None:
        """can_add_rows: whether requests can start while others run."""
        self._memory, self._max_batch_size, self._can_add_rows = memory, max_batch_size, can_add_rows
        self.memory_full = False  # until a request ends or was read

    def take(
        self, waiting: deque[GenerationRequest], started: Sequence[GenerationRequest]
    ) -> list[GenerationRequest]:
        """Remove the requests to start together from those that wait, without regard to memory.

        started: those that run or are being read.
        """
        room = self._max_batch_size - len(started)
        if started and (self.memory_full or not self._can_add_rows):
            room = 0
        requests: list[GenerationRequest] = []
        while waiting and len(requests) < room:
            if self._can_add_rows and not _are_read_together([*requests, waiting[0]]):
                break  # read after the next token
            if requests and waiting[0].adapter != requests[0].adapter:
                break  # prompts that are read together have one adapter
            if requests and any(map(self._begins_as_stored, (requests[0], waiting[0]))):
                break  # its own cache begins with what is stored
            request = waiting.popleft()
            if not request.cancelled:
                requests.append(request)
        return requests

    def _begins_as_stored(self, request: GenerationRequest) -> bool:
        return self._memory.store.find(request.tokens, request.adapter) is not None

    def number_fitting(
        self,
        requests: Sequence[GenerationRequest],
        started: Sequence[GenerationRequest],
        readings: Sequence[tuple[int, int]],
    ) -> int:
        """How many of the first requests have keys and values that fit into memory beside the others.

        started: those that run or are being read. readings: rows and columns of the latter. Raises
        `InsufficientMemoryError` if a request does not fit alone.
        """
        self.memory_full = False
        for number in range(len(requests), 0, -1):
            starting = requests[:number]
            columns = max(request.columns for request in starting)
            try:
                self._memory.check_readings([*readings, (number, columns)])
                with self._memory.beginning_held(starting):
                    self._memory.make_room([*map(_expected_columns, (*started, *starting))])
                return number
            except InsufficientMemoryError:
                if not started and number == 1:
                    raise
                self.memory_full = True
        return 0


def _expected_columns(request: GenerationRequest) -> int:
    return request.columns + min(request.state.max_steps - request.state.step, RESERVED_TOKENS)


def _are_read_together(requests: Sequence[GenerationRequest]) -> bool:
    lengths = [len(request.tokens) for request in requests]
    padded = max(lengths) * len(lengths)
    return len(lengths) == 1 or padded <= min(MAX_PADDING_RATIO * sum(lengths), MAX_TOKENS_TOGETHER)
