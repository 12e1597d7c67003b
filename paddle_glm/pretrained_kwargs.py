"""Keywords of `from_pretrained` in other libraries: what has no effect here, and what is refused by name."""

from collections.abc import Iterable, Mapping
from typing import Any

from paddle_glm.errors import InputError

# What they ask for is so in any case. No code of a folder is ever run, whatever trust_remote_code says.
IGNORED_KWARGS = frozenset(
    {"trust_remote_code", "low_cpu_mem_usage", "empty_init", "use_fast", "resume_download"}
)
_NO_DOWNLOAD = "leave it out: nothing is fetched without download, and nothing twice"
_UNSUPPORTED_KWARGS = {
    "local_files_only": _NO_DOWNLOAD,
    "force_download": _NO_DOWNLOAD,
    "from_hf_hub": 'give download="huggingface"',
    "from_aistudio": 'give download="modelscope" or a folder',
    "attn_implementation": "leave it out: there is one attention",
    "use_flash_attention_2": "leave it out: there is one attention",
    "max_memory": "give quantization_bit=4, or share the model: load_model_on_gpus",
    "offload_folder": "give quantization_bit=4: weights stay in memory",
    "offload_state_dict": "leave it out: weights are read tensor by tensor",
    "tensor_parallel_degree": "give group=init_parallel().tensor, or use load_model_on_gpus",
    "output_hidden_states": "give it when the model is called",
    "padding_side": 'batches are padded on the left: give "left" or leave it out',
    "encode_special_tokens": "give it to tokenizer.encode",
}
_ACCEPTED_VALUES = {"padding_side": "left"}


def supported_kwargs(keywords: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The keywords that have an effect, which `known` lists.

    A refused one passes where its value (None, False) asks for nothing. Raises `InputError` for the others,
    and for names that nobody knows.
    """
    found = {}
    for name, value in keywords.items():
        if name in known:
            found[name] = value
        elif name in _UNSUPPORTED_KWARGS:
            if value is not None and value is not False and value != _ACCEPTED_VALUES.get(name):
                raise InputError(f"{name} is not supported: {_UNSUPPORTED_KWARGS[name]}")
        elif name not in IGNORED_KWARGS:
            listed = ", ".join([*known, *sorted(IGNORED_KWARGS)])
            raise InputError(f"from_pretrained knows no {name!r}: known are {listed}")
    return found
