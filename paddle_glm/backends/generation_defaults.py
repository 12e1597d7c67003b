"""Generation defaults from a folder's `generation_config.json`."""

from typing import Any

from paddle_glm.chat_template import RoleTemplate
from paddle_glm.config import ModelConfig
from paddle_glm.generation import GenerationParams
from paddle_glm.generation_keys import GENERATION_CONFIG_FILE, RULES
from paddle_glm.key_rules import read_fields
from paddle_glm.models.family import family_of

# The original `chat` passes these itself, so the file's values have no effect there.
CHAT_OVERRIDES = ("do_sample", "temperature", "top_p", "num_beams", "max_length", "pad_token_id")


def generation_config_values(config: ModelConfig) -> dict[str, Any]:
    """The file's values by names of `GenerationParams`; without the file, those in `config.json`.

    Raises `InputError` for a value that would change answers and is not supported.
    """
    if config.generation_config is not None:
        return read_fields(RULES, config.generation_config, GENERATION_CONFIG_FILE)
    return read_fields(RULES, config.extra_keys, "config.json")


def default_generation_params(config: ModelConfig, base: GenerationParams | None = None) -> GenerationParams:
    """`base` (None: what the original `chat` passes), updated with the file's other values; raises as above.

    ChatGLM3's end tokens are those of its roles whatever the file says, because its `chat` passes them.
    """
    file_values, family = generation_config_values(config), family_of(config)
    overridden = {*CHAT_OVERRIDES, *(("eos_token_ids",) if isinstance(family.template, RoleTemplate) else ())}
    base = base or GenerationParams().updated(family.chat_generation_defaults)
    return base.updated({name: value for name, value in file_values.items() if name not in overridden})
