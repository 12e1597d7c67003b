"""Keywords of `from_pretrained` in other libraries that are ignored or refused here."""

from collections.abc import Iterable, Mapping
from typing import Any

from paddle_glm.errors import InputError

# They ask for the only behaviour there is. Code in a folder is never run, even with trust_remote_code.
IGNORED_KWARGS = frozenset(
    {"trust_remote_code", "low_cpu_mem_usage", "empty_init", "use_fast", "resume_download"}
)
_NO_DOWNLOAD = "leave it out: files are only downloaded with download=True, and only once"
_UNSUPPORTED_KWARGS = {
    "local_files_only": _NO_DOWNLOAD,
    "force_download": _NO_DOWNLOAD,
    "from_hf_hub": 'give download="huggingface"',
    "from_aistudio": 'give download="modelscope" or a folder',
    "attn_implementation": "leave it out: device, dtype and length choose the implementation",
    "use_flash_attention_2": "leave it out: there is one implementation",
    "max_memory": "give quantization_bit=4, or shard the model with load_model_on_gpus",
    "offload_folder": "give quantization_bit=4: weights are not offloaded",
    "offload_state_dict": "leave it out: weights are read tensor by tensor",
    "tensor_parallel_degree": "give group=init_parallel().tensor, or use load_model_on_gpus",
    "output_hidden_states": "give it when the model is called",
    "padding_side": 'batches are padded on the left: give "left" or leave it out',
    "encode_special_tokens": "give it to tokenizer.encode",
}
_ACCEPTED_VALUES = {"padding_side": "left"}


def supported_kwargs(keywords: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The keywords listed in `known`; ignored ones are dropped.

    Unsupported keywords are dropped too if their value (None, False) asks for nothing. Raises `InputError`
    for the others, and for unknown names.
    """
    supported = {}
    for name, value in keywords.items():
        if name in known:
            supported[name] = value
        elif name in _UNSUPPORTED_KWARGS:
            if value is not None and value is not False and value != _ACCEPTED_VALUES.get(name):
                raise InputError(f"{name} is not supported: {_UNSUPPORTED_KWARGS[name]}")
        elif name not in IGNORED_KWARGS:
            listed = ", ".join([*known, *sorted(IGNORED_KWARGS)])
            raise InputError(f"from_pretrained has no keyword {name!r}: known are {listed}")
    return supported
