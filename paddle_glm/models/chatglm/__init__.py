"""ChatGLM-6B: post-residual blocks, two rotary positions per token, a prompt that attends both ways."""

from paddle_glm.models.chatglm.activations import BLOCK_ACTIVATIONS
from paddle_glm.models.chatglm.parameters import parameters
from paddle_glm.models.chatglm.positions import (
    check_prompt,
    position_rule,
    position_shape,
    positions,
    rotary_dim,
)
from paddle_glm.models.chatglm.template import CHATGLM
from paddle_glm.models.family import Family

FAMILY = Family(
    name="chatglm",
    title="ChatGLM-6B",
    float_parameters=parameters,
    positions=positions,
    position_shape=position_shape,
    position_rule=position_rule,
    check_prompt=check_prompt,
    rotary_dim=rotary_dim,
    block_activations=BLOCK_ACTIVATIONS,
    template=CHATGLM,
    model="paddle_glm.models.chatglm.modeling:ChatGLMModel",
    tokenizer="paddle_glm.models.chatglm.tokenizer:ChatGLMTokenizer",
    vocab_file="ice_text.model",
    keys_to_ignore=(
        r"lm_head\.weight(_scale)?",
        r"transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq",
    ),
    is_causal=False,
    chat_generation_defaults={"temperature": 0.95, "top_p": 0.7, "max_length": 2048},
)
