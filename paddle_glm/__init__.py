"""ChatGLM on PaddlePaddle: finetune, merge, evaluate, export, answer.

`from paddle_glm import AutoConfig, AutoTokenizer, AutoModel`; each is imported when first used, so
that tools which need no framework start fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paddle_glm.version import __version__

if TYPE_CHECKING:
    from paddle_glm.config import ModelConfig as AutoConfig
    from paddle_glm.models.auto import AutoModel
    from paddle_glm.tokenizers import AutoTokenizer

__all__ = ["AutoConfig", "AutoModel", "AutoTokenizer", "__version__"]

_LAZY = {
    "AutoConfig": ("paddle_glm.config", "ModelConfig"),
    "AutoModel": ("paddle_glm.models.auto", "AutoModel"),
    "AutoTokenizer": ("paddle_glm.tokenizers", "AutoTokenizer"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'paddle_glm' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
