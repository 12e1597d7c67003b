"""Token ids in, token ids or text out, over any backend; numpy only, and nothing of models."""

from paddle_glm.generation.loop import generate
from paddle_glm.generation.params import GenerationParams
from paddle_glm.generation.session import ChatSession, Reply, complete
from paddle_glm.generation.step_backend import StepBackend
from paddle_glm.generation.stream import TextStream

__all__ = ["ChatSession", "GenerationParams", "Reply", "StepBackend", "TextStream", "complete", "generate"]
