"""Token ids in, token ids or text out, over any backend; numpy only, and nothing of models."""

from paddle_glm.generation.backend_protocol import (
    GenerationBackend,
    MemoryCheckingBackend,
)
from paddle_glm.generation.detokenizer import StreamingDetokenizer
from paddle_glm.generation.loop import generate
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.session import (
    ChatSession,
    GenerationOutput,
    Session,
    StreamDecoder,
    generate_batch,
)

__all__ = [
    "ChatSession",
    "GenerationBackend",
    "GenerationOutput",
    "GenerationParams",
    "MemoryCheckingBackend",
    "Session",
    "StreamDecoder",
    "StreamingDetokenizer",
    "generate",
    "generate_batch",
]
