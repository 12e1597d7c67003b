"""Keys and values of ended requests, for prompts that begin with the same tokens."""

from collections.abc import Sequence

import numpy as np

from paddle_glm.backends.kv_cache import RowCache

MIN_TOKENS = 16  # fewer are read again faster than they are found and copied
MAX_ROWS = 512  # each is compared with each prompt


class PrefixStore:
    """At most `MAX_ROWS` row caches of `max_nbytes` bytes; the one used least recently leaves first."""

    def __init__(self, max_nbytes: int) -> None:
        self.max_nbytes = max_nbytes
        self._rows: list[RowCache] = []  # the one used last is at the end
        self.nbytes = 0  # of all rows

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, prompt: Sequence[int], adapter: str | None = None) -> RowCache | None:
        """The adapter's row with most first tokens in common with a prompt, or None below `MIN_TOKENS`."""
        ids = np.asarray(prompt, dtype=np.int64)
        best, tokens = None, MIN_TOKENS - 1
        for row in self._rows:
            if row.adapter == adapter and (common := row.common_length(ids)) > tokens:
                best, tokens = row, common
        if best is not None:
            self._rows.remove(best)
            self._rows.append(best)
        return best

    def add(self, row: RowCache) -> None:
        """Keep a row, in place of those of its adapter that are its beginning; none larger than the store."""
        if len(row.input_ids) < MIN_TOKENS or row.nbytes > self.max_nbytes:
            row.release()
            return
        for one in [one for one in self._rows if _begins_with(row, one)]:
            self._drop(one)
        self._rows.append(row)
        self.nbytes += row.nbytes
        while self.nbytes > self.max_nbytes or len(self._rows) > MAX_ROWS:
            self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Drop the row used least recently; False if there is none."""
        if self._rows:
            self._drop(self._rows[0])
            return True
        return False

    def _drop(self, row: RowCache) -> None:
        self._rows.remove(row)
        self.nbytes -= row.nbytes
        row.release()


def _begins_with(row: RowCache, beginning: RowCache) -> bool:
    ids, first = row.input_ids, beginning.input_ids
    if row.adapter != beginning.adapter or len(first) > len(ids):
        return False
    return bool((ids[: len(first)] == first).all())
