"""Prompts of starting requests: read whole, or in pieces between the tokens of running requests."""

import time
from collections.abc import Sequence

from paddle_glm.array_types import FloatArray, IntArray
from paddle_glm.backends.kv_cache import KVCacheBackend, PromptReading
from paddle_glm.generation import ContinuousBatchingBackend, GenerationBackend
from paddle_glm.generation.session import pad_left
from paddle_glm.serving.generation_request import GenerationRequest
from paddle_glm.serving.pace import PieceSize
from paddle_glm.serving.prefix_store import PrefixStore

# Share of the memory that is free at the start for keys and values of ended requests.
STORE_SHARE = 0.25


class PromptReader:
    """Reads prompts and joins their rows to the backend's; uses and keeps what ended requests left."""

    def __init__(self, backend: GenerationBackend, piece_size: PieceSize, store_nbytes: int | None) -> None:
        """store_nbytes: None for a share of the free memory."""
        self._backend, self.piece_size = backend, piece_size
        # Where tokens attend to later ones, a prompt is read whole and its beginning depends on its end.
        self._causal: KVCacheBackend | None = None
        if isinstance(backend, KVCacheBackend) and backend.family.is_causal:
            self._causal = backend
        self.store = PrefixStore(self._store_nbytes(store_nbytes))
        self.requests: list[GenerationRequest] = []  # that are read in pieces
        self._reading: PromptReading | None = None

    def _store_nbytes(self, given: int | None) -> int:
        if given is not None or self._causal is None:
            return given or 0
        budget = self._causal.memory_budget()
        return 0 if budget is None else int(STORE_SHARE * budget.free)

    def start(self, requests: list[GenerationRequest], beside_others: bool) -> tuple[FloatArray | None, int]:
        """Read the prompts of requests of one adapter, or begin to.

        beside_others: whether rows are running. Returns the logits, float32 [requests, vocab], of rows that
        are now the last ones, or None if the prompts are read by `read`; and how many tokens are not read
        again. On failure the running rows are unchanged.
        """
        batch = pad_left([request.prompt for request in requests], requests[0].state.params.pad_token_id)
        adapter = requests[0].adapter
        stored = self.store.find(requests[0].prompt, adapter) if len(requests) == 1 else None
        in_pieces = beside_others and batch[0].shape[1] > self.piece_size.columns(len(requests))
        if self._causal is not None and (in_pieces or stored is not None):
            self._reading = self._causal.start_reading(*batch, stored, adapter)
            self.requests = requests
            return None, self._reading.columns_read
        started = time.monotonic()
        logits = self._read_whole(batch, adapter, beside_others)
        self.piece_size.on_piece(batch[0].size, time.monotonic() - started)
        return logits, 0

    def _read_whole(
        self, batch: tuple[IntArray, IntArray], adapter: str | None, beside_others: bool
    ) -> FloatArray:
        if adapter is not None:
            assert isinstance(self._backend, KVCacheBackend)
            reading = self._backend.start_reading(*batch, None, adapter)
            logits = self._backend.read(reading, batch[0].shape[1])
            assert logits is not None
            self._backend.join(reading, replace=not beside_others)
            return logits
        if not beside_others:
            return self._backend.prefill(*batch)
        assert isinstance(self._backend, ContinuousBatchingBackend)
        return self._backend.add_rows(*batch)

    def read(self, beside_others: bool) -> FloatArray | None:
        """Read a piece of the prompts, all of them where nobody waits for a token.

        Returns the logits, as `start`, after the last piece. The caller drops the requests if it fails.
        """
        assert self._causal is not None and self._reading is not None
        rows, columns = self._reading.input_ids.shape
        before, started = self._reading.columns_read, time.monotonic()
        if beside_others:
            columns = self.piece_size.columns(rows)
        logits = self._causal.read(self._reading, columns)
        tokens = rows * (self._reading.columns_read - before)
        self.piece_size.on_piece(tokens, time.monotonic() - started)
        if logits is not None:
            self._causal.join(self._reading, replace=not beside_others)
        return logits

    def drop(self) -> list[GenerationRequest]:
        """The requests that were being read; none are from now on."""
        requests, self.requests, self._reading = self.requests, [], None
        return requests

    def keep(self, rows: Sequence[int]) -> None:
        """Store what rows that leave have in the cache."""
        if self._causal is None or not self.store.max_nbytes:
            return
        for row in rows:
            self.store.add(self._causal.row_cache(row))
