"""ChatGLM3-6B: ChatGLM2's architecture with roles in the prompt and another reading of `rope_ratio`."""

from dataclasses import replace

from paddle_glm.models.chatglm2 import FAMILY as CHATGLM2_FAMILY
from paddle_glm.models.chatglm3.template import CHATGLM3

FAMILY = replace(
    CHATGLM2_FAMILY,
    name="chatglm3",
    title="ChatGLM3-6B",
    template=CHATGLM3,
    model="paddle_glm.models.chatglm3.modeling:ChatGLM3Model",
    tokenizer="paddle_glm.models.chatglm3.tokenizer:ChatGLM3Tokenizer",
)
