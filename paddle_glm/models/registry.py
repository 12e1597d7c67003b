"""The families of models by name: one line each. Nothing of a family is imported before it is asked for."""

from importlib import import_module
from types import ModuleType

from paddle_glm.errors import InputError

# Name -> package that holds everything which is this family's; its `FAMILY` says what that is.
_PACKAGES = {
    "chatglm": "paddle_glm.models.chatglm",
    "chatglm2": "paddle_glm.models.chatglm2",
    "chatglm3": "paddle_glm.models.chatglm3",
}


def register_family(name: str, package: str) -> None:
    """Add a family, or replace the one of that name. package: importable, laid out as the ones here are."""
    _PACKAGES[name] = package


def family_names() -> tuple[str, ...]:
    return tuple(_PACKAGES)


def family_module(name: str, module: str = "") -> ModuleType:
    """The package of the family called `name`, or one of its modules.

    Raises `InputError` listing the known families.
    """
    if name not in _PACKAGES:
        raise InputError(f"unknown model family {name!r}: expected one of {', '.join(_PACKAGES)}")
    return import_module(f"{_PACKAGES[name]}.{module}" if module else _PACKAGES[name])
