"""A real, if tiny, language model in numpy: one attention layer with a cache, behind the Backend contract."""

import numpy as np

from paddle_glm.backends.base import Backend
from paddle_glm.config import ModelConfig


class NumpyBackend(Backend):
    """Logits depend on every real token, its position and nothing else (padding is masked)."""

    def __init__(
        self, vocab: int = 12, width: int = 8, seed: int = 0, limit: int = 64, logit_scale: float = 2.0
    ):
        super().__init__(ModelConfig(vocab_size=vocab, max_sequence_length=limit))
        random = np.random.default_rng(seed)
        self.word_embeddings = random.standard_normal((vocab, width))
        self.position_embeddings = random.standard_normal((limit, width))
        self.query, self.key, self.value = random.standard_normal((3, width, width)) / np.sqrt(width)
        self.head = random.standard_normal((width, vocab)) * logit_scale
        self.steps: list[tuple[int, int]] = []  # (rows, tokens) of each step

    def reset(self, batch: int) -> None:
        self.cache = np.zeros((batch, 0, self.word_embeddings.shape[1]))

    def select_cache(self, rows: np.ndarray) -> None:
        self.cache = self.cache[rows]

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self.steps.append(inputs["input_ids"].shape)
        x = self.word_embeddings[inputs["input_ids"]] + self.position_embeddings[inputs["position_ids"]]
        self.cache = np.concatenate([self.cache, x], axis=1)
        mask = inputs["attention_mask"][:, None, :]
        assert mask.shape[-1] == self.cache.shape[1]
        scores = (x[:, -1:] @ self.query) @ (self.cache @ self.key).transpose(0, 2, 1)
        scores = np.where(mask == 1, scores, -1e9)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = (weights / weights.sum(axis=-1, keepdims=True)) @ (self.cache @ self.value)
        return ((context[:, 0] + x[:, -1]) @ self.head).astype(np.float32)


def logits_after(backend: NumpyBackend, ids: list[int]) -> np.ndarray:
    """float32 [vocab] after a whole sequence, without a cache."""
    row = np.array([ids])
    return backend.prefill(row, np.ones_like(row))[0]
