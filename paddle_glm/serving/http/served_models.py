"""The names that requests may give: the model's, and those of its adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class ModelNotFoundError(Exception):
    """A request for a model that this server does not have."""


@dataclass(frozen=True)
class ServedModels:
    """base: the model's name, for requests that give none. adapters: names of its adapters."""

    base: str
    adapters: Sequence[str] = ()

    def name(self, asked: str | None) -> str:
        """The name that answers carry. Raises `ModelNotFoundError`."""
        name = self.base if asked is None else asked
        if name not in (self.base, *self.adapters):
            known = ", ".join(map(repr, (self.base, *self.adapters)))
            raise ModelNotFoundError(f"the model {asked!r} does not exist here: this server has {known}")
        return name

    def adapter(self, asked: str | None) -> str | None:
        """The adapter that answers, None for the model alone. Raises `ModelNotFoundError`."""
        return None if (name := self.name(asked)) == self.base else name

    def description(self, asked: str) -> dict[str, Any]:
        """An entry of /v1/models, with `parent` as in vLLM. Raises `ModelNotFoundError`."""
        parent = None if self.adapter(asked) is None else self.base
        return {"id": asked, "object": "model", "created": 0, "owned_by": "paddle_glm", "parent": parent}

    def descriptions(self) -> list[dict[str, Any]]:
        return [self.description(name) for name in (self.base, *self.adapters)]
