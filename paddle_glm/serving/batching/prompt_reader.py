"""Prompts of starting requests: read in pieces, between which others and running requests have their turn."""

import time
from dataclasses import dataclass

from paddle_glm.array_types import FloatArray
from paddle_glm.backends.kv_cache import KVCacheBackend, PromptReading
from paddle_glm.generation import GenerationBackend
from paddle_glm.generation.session import pad_left
from paddle_glm.serving.batching.generation_request import GenerationRequest
from paddle_glm.serving.batching.pace import IdlePieceSize, PieceSize
from paddle_glm.serving.batching.prefix_store import PrefixStore

# A prompt overtakes the one that began first where it has at most this part of that one's tokens left.
OVERTAKING_SHARE = 0.5


@dataclass(eq=False)
class PromptGroup:
    """Requests of one adapter whose prompts are read together.

    reading: None for a backend that is no `KVCacheBackend`. logits: float32 [requests, vocab], after the last
    piece.
    """

    requests: list[GenerationRequest]
    reading: PromptReading | None
    logits: FloatArray | None = None

    @property
    def tokens_left(self) -> int:
        """To be read, padding included."""
        if self.reading is None:
            return 0
        rows, columns = self.reading.input_ids.shape
        return rows * (columns - self.reading.columns_read)


class PromptReader:
    """Reads the prompts of requests that start together and joins their rows to the backend's.

    Several groups are read beside each other, a piece of one at a time. A backend that is no `KVCacheBackend`
    reads while nothing runs.
    """

    def __init__(self, backend: GenerationBackend, store: PrefixStore) -> None:
        self._backend, self._store = backend, store
        self._cached = backend if isinstance(backend, KVCacheBackend) else None
        self.groups: list[PromptGroup] = []  # the one that began first is the first
        self._overtaken = False  # whether the last piece was not of the first

    @property
    def requests(self) -> list[GenerationRequest]:
        """All that are read."""
        return [request for group in self.groups for request in group.requests]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows of each group, and columns of its cache, prefix included."""
        return [(len(group.requests), max(one.columns for one in group.requests)) for group in self.groups]

    @property
    def nbytes(self) -> int:
        """Of the keys and values of what is being read."""
        groups = list(self.groups)  # asked by other threads too
        return sum(group.reading.cache.nbytes for group in groups if group.reading is not None)

    def start(self, requests: list[GenerationRequest]) -> int:
        """Begin to read what requests of one adapter consist of so far.

        Returns how many tokens are not read again.
        """
        batch = pad_left([request.tokens for request in requests], requests[0].state.params.pad_token_id)
        if self._cached is None:
            self.groups.append(PromptGroup(requests, None, self._backend.prefill(*batch)))
            return 0
        adapter, alone = requests[0].adapter, len(requests) == 1
        stored = self._store.find(requests[0].tokens, adapter) if alone else None
        reading = self._cached.start_reading(*batch, stored, adapter)
        self.groups.append(PromptGroup(requests, reading))
        return reading.columns_read

    def next(self) -> PromptGroup:
        """The group to read a piece of.

        A short prompt overtakes the one that began first, which still gets every other piece.
        """
        first, shortest = self.groups[0], min(self.groups, key=lambda group: group.tokens_left)
        is_short = shortest.tokens_left <= OVERTAKING_SHARE * first.tokens_left
        self._overtaken = is_short and shortest is not first and not self._overtaken
        return shortest if self._overtaken else first

    def read(self, group: PromptGroup, piece_size: PieceSize | IdlePieceSize) -> bool:
        """Read a piece; whether the prompts are read, so that `join` is next."""
        reading = group.reading
        if group.logits is None and reading is not None:
            assert self._cached is not None
            rows, columns = reading.input_ids.shape
            # Where tokens attend to later ones, a prompt is read whole.
            if self._cached.family.is_causal:
                columns = piece_size.columns(rows)
            before, started = reading.columns_read, time.monotonic()
            group.logits = self._cached.read(reading, columns)
            piece_size.on_piece(rows * (reading.columns_read - before), time.monotonic() - started)
        return group.logits is not None

    def join(self, group: PromptGroup, replace: bool) -> FloatArray:
        """Append a group's rows to the backend's, or take their place; it is not read any more.

        Returns its logits. On failure nothing changes.
        """
        assert group.logits is not None
        if self._cached is not None and group.reading is not None:
            self._cached.join(group.reading, replace)
        self.drop(group)
        return group.logits

    def drop(self, group: PromptGroup) -> None:
        """Read no more of a group."""
        self.groups.remove(group)
