"""What a folder's `generation_config.json` says of answers that nobody says otherwise of."""

from typing import Any

from paddle_glm.chat import RoleTemplate
from paddle_glm.config import ModelConfig
from paddle_glm.families import family_of
from paddle_glm.file_keys import read
from paddle_glm.generation import GenerationParams
from paddle_glm.generation_keys import FILE, RULES

# What `chat` of the originals passes itself, so that the file's values have no effect there.
CHAT_SAYS = ("do_sample", "temperature", "top_p", "num_beams", "max_length", "pad_token_id")


def generation_values(config: ModelConfig) -> dict[str, Any]:
    """The file's values by names of `GenerationParams`; without a file, those that `config.json` holds.

    Raises `InputError` for a value that would change answers and is not supported.
    """
    if config.generation is not None:
        return read(RULES, config.generation, FILE)
    return read(RULES, config.hub, "config.json")


def default_params(config: ModelConfig, base: GenerationParams | None = None) -> GenerationParams:
    """`base` (None: what `chat` of the original passes) with what the file says besides; raises as above.

    The end tokens of ChatGLM3 are those of its roles, whatever the file says: its `chat` passes them.
    """
    said, family = generation_values(config), family_of(config)
    own = {*CHAT_SAYS, *(("eos_token_ids",) if isinstance(family.template, RoleTemplate) else ())}
    base = base or GenerationParams().updated(family.chat_sampling)
    return base.updated({name: value for name, value in said.items() if name not in own})
