"""The memory for keys and values: of rows that run, of prompts that are read, and of rows that ended."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from paddle_glm.backends.kv_cache import CacheLimitError, KVCacheBackend
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationBackend
from paddle_glm.load_memory import InsufficientMemoryError, format_bytes
from paddle_glm.serving.batching.generation_request import GenerationRequest
from paddle_glm.serving.batching.prefix_store import PrefixStore

# Of the memory that is free once the model is loaded.
CACHE_SHARE = 0.5
# Of the cache's memory, for rows that ended.
STORE_SHARE = 0.5
# One of so many parts of it, at most, is for prompts that are being read, which are not in pages.
READING_PARTS = 3


class CacheMemory:
    """Running rows first: the store gives its rows up where they need the memory.

    limit: bytes in this process; None where the free memory is unknown. reading_limit: those of them that
    only prompts that are being read may take. max_tokens: of a row that runs alone; None: any number.
    """

    def __init__(self, backend: GenerationBackend, nbytes: int | None, store_nbytes: int | None) -> None:
        """Limit the backend's cache; None: to a share. Raises `InputError` where that is not possible.

        Backends that are no `KVCacheBackend` have no limit. Where tokens attend to later ones, a prompt's
        beginning depends on its end, so that nothing is stored.
        """
        self.limit: int | None = None
        self.reading_limit = 0
        self.max_tokens: int | None = None
        self._backend = backend if isinstance(backend, KVCacheBackend) else None
        if self._backend is not None:
            self.limit = _limit(self._backend, nbytes)
        if self._backend is not None and self.limit is not None:
            prefix = max(self._backend.prefix_lengths.values())
            columns = prefix + self._backend.config.max_sequence_length
            two_longest = self._backend.reading_nbytes(2, columns)
            self.reading_limit = min(self.limit // READING_PARTS, two_longest)
            self._backend.limit_cache(self.limit - self.reading_limit)
            self.max_tokens = self._longest_row(self._backend)
        if self._backend is None or not self._backend.family.is_causal:
            store_nbytes = 0
        elif store_nbytes is None:
            store_nbytes = int(STORE_SHARE * (self.limit or 0))
        self.store = PrefixStore(store_nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes that running rows and those that ended take now."""
        if self._backend is None:
            return 0
        return self._backend.cache_nbytes + (0 if self._backend.is_paged else self.store.nbytes)

    def prefix_length(self, adapter: str | None) -> int:
        """Columns that a row of an adapter takes besides its tokens."""
        return 0 if self._backend is None else self._backend.prefix_lengths[adapter]

    def make_room(self, lengths: Sequence[int]) -> None:
        """Make room for rows of so many columns: all that run and are being read, and others.

        Raises `InsufficientMemoryError` where they do not fit even without the stored rows.
        """
        if self._backend is None:
            return
        while True:
            try:
                self._backend.check_lengths_fit(lengths, self.store.nbytes)
                return
            except InsufficientMemoryError:
                if not self.store.drop_oldest():
                    raise

    def check_readings(self, readings: Sequence[tuple[int, int]]) -> None:
        """Raise `InsufficientMemoryError` if prompts of so many (rows, columns) are too many to be read."""
        if self._backend is None or self.limit is None:
            return
        needed = [self._backend.reading_nbytes(*one) for one in readings]
        if sum(needed) > self.reading_limit:
            rows, columns = readings[-1]
            raise CacheLimitError([columns] * rows, needed[-1], self.reading_limit - sum(needed[:-1]))

    @contextmanager
    def beginning_held(self, requests: Sequence[GenerationRequest]) -> Iterator[None]:
        """Meanwhile a request that starts alone has what it can share with a stored row."""
        held = None
        if len(requests) == 1 and (row := self.store.find(requests[0].tokens, requests[0].adapter)):
            held = row.share(row.common_length(np.array(requests[0].tokens, dtype=np.int64)))
        try:
            yield
        finally:
            if held is not None:
                held.release()

    def release(self) -> None:
        """No row runs any more."""
        if self._backend is not None:
            self._backend.release()

    def keep(self, rows: Sequence[int]) -> None:
        """Store what running rows that leave have in the cache."""
        if self._backend is not None and self.store.max_nbytes:
            for row in rows:
                self.store.add(self._backend.row_cache(row))

    def _longest_row(self, backend: KVCacheBackend) -> int:
        """Tokens of the longest row that fits with any prefix.

        Raises `InsufficientMemoryError` where a short one does not.
        """
        prefix = max(backend.prefix_lengths.values())

        def check(tokens: int) -> None:
            backend.check_lengths_fit([prefix + tokens])
            self.check_readings([(1, prefix + tokens)])

        low, high = 2, backend.config.max_sequence_length
        check(low)
        while low < high:
            middle = (low + high + 1) // 2
            try:
                check(middle)
                low = middle
            except InsufficientMemoryError:
                high = middle - 1
        return low


def _limit(backend: KVCacheBackend, nbytes: int | None) -> int | None:
    budget = backend.memory_budget()
    free = None if budget is None else budget.free // budget.local_degree
    if nbytes is None:
        return None if free is None else int(CACHE_SHARE * free)
    if free is not None and nbytes > free:
        raise InputError(
            f"--cache_memory {nbytes / 1e9:g}: {format_bytes(free)} are free for each process after loading"
        )
    return nbytes
