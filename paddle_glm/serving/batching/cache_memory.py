"""The memory for keys and values: of rows that run, and of those that ended."""

from collections.abc import Sequence

from paddle_glm.backends.kv_cache import KVCacheBackend
from paddle_glm.errors import InputError
from paddle_glm.generation import GenerationBackend
from paddle_glm.load_memory import InsufficientMemoryError, format_bytes
from paddle_glm.serving.batching.prefix_store import PrefixStore

# Of the memory that is free once the model is loaded; prompts that are being read are beside it.
CACHE_SHARE = 0.5
# Of the cache's memory, for rows that ended.
STORE_SHARE = 0.5


class CacheMemory:
    """Running rows first: the store gives its rows up where they need the memory.

    limit: bytes in this process; None where the free memory is unknown. max_tokens: of a row that runs alone;
    None: any number.
    """

    def __init__(self, backend: GenerationBackend, nbytes: int | None, store_nbytes: int | None) -> None:
        """Limit the backend's cache; None: to a share. Raises `InputError` where that is not possible.

        Backends that are no `KVCacheBackend` have no limit. Where tokens attend to later ones, a prompt's
        beginning depends on its end, so that nothing is stored.
        """
        self.limit: int | None = None
        self.max_tokens: int | None = None
        self._backend = backend if isinstance(backend, KVCacheBackend) else None
        if self._backend is not None:
            self.limit = _limit(self._backend, nbytes)
        if self._backend is not None and self.limit is not None:
            self._backend.limit_cache(self.limit)
            self.max_tokens = _longest_row(self._backend)
        if self._backend is None or not self._backend.family.is_causal:
            store_nbytes = 0
        elif store_nbytes is None:
            store_nbytes = int(STORE_SHARE * (self.limit or 0))
        self.store = PrefixStore(store_nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes that rows take now."""
        if self._backend is None:
            return 0
        return self._backend.cache_nbytes + (0 if self._backend.is_paged else self.store.nbytes)

    def prefix_length(self, adapter: str | None) -> int:
        """Columns that a row of an adapter takes besides its tokens."""
        return 0 if self._backend is None else self._backend.prefix_lengths[adapter]

    def make_room(self, lengths: Sequence[int]) -> None:
        """Make room for rows of so many columns, the running ones included.

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

    def release(self) -> None:
        """No row runs any more."""
        if self._backend is not None:
            self._backend.release()

    def keep(self, rows: Sequence[int]) -> None:
        """Store what running rows that leave have in the cache."""
        if self._backend is not None and self.store.max_nbytes:
            for row in rows:
                self.store.add(self._backend.row_cache(row))


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


def _longest_row(backend: KVCacheBackend) -> int:
    """Tokens of the longest row that fits with any prefix.

    Raises `InsufficientMemoryError` where a short one does not.
    """
    low, high = 2, backend.config.max_sequence_length
    prefix = max(backend.prefix_lengths.values())
    backend.check_lengths_fit([prefix + low])
    while low < high:
        middle = (low + high + 1) // 2
        try:
            backend.check_lengths_fit([prefix + middle])
            low = middle
        except InsufficientMemoryError:
            high = middle - 1
    return low
