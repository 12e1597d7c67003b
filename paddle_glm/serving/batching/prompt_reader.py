"""Prompts of starting requests: read whole, or in pieces between the tokens of running requests."""

import time

from paddle_glm.array_types import FloatArray
from paddle_glm.backends.kv_cache import KVCacheBackend, PromptReading
from paddle_glm.generation import GenerationBackend
from paddle_glm.generation.session import pad_left
from paddle_glm.serving.batching.generation_request import GenerationRequest
from paddle_glm.serving.batching.pace import PieceSize
from paddle_glm.serving.batching.prefix_store import PrefixStore


class PromptReader:
    """Reads the prompts of requests that start together and joins their rows to the backend's.

    A backend that is no `KVCacheBackend` reads while nothing runs.
    """

    def __init__(self, backend: GenerationBackend, store: PrefixStore) -> None:
        self._backend, self._store = backend, store
        self._cached = backend if isinstance(backend, KVCacheBackend) else None
        self.requests: list[GenerationRequest] = []  # that are read
        self._reading: PromptReading | None = None
        self._logits: FloatArray | None = None  # after the last piece

    def start(self, requests: list[GenerationRequest]) -> int:
        """Begin to read what requests of one adapter consist of so far.

        Returns how many tokens are not read again.
        """
        batch = pad_left([request.tokens for request in requests], requests[0].state.params.pad_token_id)
        reused = 0
        if self._cached is None:
            self._logits = self._backend.prefill(*batch)
        else:
            adapter, alone = requests[0].adapter, len(requests) == 1
            stored = self._store.find(requests[0].tokens, adapter) if alone else None
            self._reading = self._cached.start_reading(*batch, stored, adapter)
            reused = self._reading.columns_read
        self.requests = requests
        return reused

    def read(self, piece_size: PieceSize | None) -> bool:
        """Read a piece, or None: all; whether the prompts are read, so that `join` is next."""
        if self._logits is None:
            assert self._cached is not None and self._reading is not None
            rows, columns = self._reading.input_ids.shape
            # Where tokens attend to later ones, a prompt is read whole.
            if piece_size is not None and self._cached.family.is_causal:
                columns = piece_size.columns(rows)
            before, started = self._reading.columns_read, time.monotonic()
            self._logits = self._cached.read(self._reading, columns)
            if piece_size is not None:
                piece_size.on_piece(rows * (self._reading.columns_read - before), time.monotonic() - started)
        return self._logits is not None

    def join(self, replace: bool) -> FloatArray:
        """Append the rows to the backend's, or take their place; returns float32 [requests, vocab]."""
        assert self._logits is not None
        if self._cached is not None and self._reading is not None:
            self._cached.join(self._reading, replace)
        return self._logits

    def drop(self) -> list[GenerationRequest]:
        """The requests that were being read; none are from now on."""
        requests, self.requests = self.requests, []
        self._reading = self._logits = None
        return requests
