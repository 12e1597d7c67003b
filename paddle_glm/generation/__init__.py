"""Token ids in, token ids or text out, over any backend; numpy only, and nothing of models."""

from paddle_glm.generation.loop import generate
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.session import Answer, ChatSession, Reply, Session, complete
from paddle_glm.generation.step_backend import JoiningBackend, StepBackend
from paddle_glm.generation.stream import TextStream

__all__ = [
    "Answer",
    "ChatSession",
    "GenerationParams",
    "JoiningBackend",
    "Reply",
    "Session",
    "StepBackend",
    "TextStream",
    "complete",
    "generate",
]
