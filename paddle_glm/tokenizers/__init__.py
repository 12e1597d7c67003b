"""One tokenizer class per family over SentencePiece, and what they share."""

from paddle_glm.tokenizers.base import Tokenizer
from paddle_glm.tokenizers.encoding import BatchEncoding

__all__ = ["BatchEncoding", "Tokenizer"]
