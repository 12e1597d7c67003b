"""ChatGLM on PaddlePaddle: finetune, merge, evaluate, export, generate.

`from paddle_glm import AutoConfig, AutoTokenizer, AutoModel`; names are imported on first use, so that tools
without a framework start fast. Importing the package chooses MKL's instructions (`mkl.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paddle_glm.mkl import choose_instructions
from paddle_glm.version import __version__

if TYPE_CHECKING:
    from paddle_glm.auto.config import AutoConfig
    from paddle_glm.auto.model import AutoModel
    from paddle_glm.auto.model import AutoModel as AutoModelForCausalLM
    from paddle_glm.auto.model import AutoModel as AutoModelForSeq2SeqLM
    from paddle_glm.auto.multi_gpu import load_model_on_gpus
    from paddle_glm.auto.tokenizer import AutoTokenizer
    from paddle_glm.checkpoint.state_dict import load_state_dict

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoTokenizer",
    "__version__",
    "load_model_on_gpus",
    "load_state_dict",
]

choose_instructions()

_LAZY_IMPORTS = {
    "AutoConfig": ("paddle_glm.auto.config", "AutoConfig"),
    "AutoModel": ("paddle_glm.auto.model", "AutoModel"),
    # Aliases that guides use.
    "AutoModelForCausalLM": ("paddle_glm.auto.model", "AutoModel"),
    "AutoModelForSeq2SeqLM": ("paddle_glm.auto.model", "AutoModel"),
    "AutoTokenizer": ("paddle_glm.auto.tokenizer", "AutoTokenizer"),
    "load_model_on_gpus": ("paddle_glm.auto.multi_gpu", "load_model_on_gpus"),
    "load_state_dict": ("paddle_glm.checkpoint.state_dict", "load_state_dict"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'paddle_glm' has no attribute {name!r}")
    module, attribute = _LAZY_IMPORTS[name]
    return getattr(import_module(module), attribute)
