"""What runs a model's steps: the contract, and a module for each inference engine."""

from paddle_glm.backends.base import Backend

__all__ = ["Backend"]
