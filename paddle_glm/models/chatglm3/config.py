"""`config.json` of ChatGLM3-6B: ChatGLM2's keys, told apart by the files of the tokenizer."""

from dataclasses import replace

from paddle_glm.models.chatglm2.config import RELEASED_SIZES
from paddle_glm.models.chatglm2.config import SCHEMA as CHATGLM2_SCHEMA

SCHEMA = replace(
    CHATGLM2_SCHEMA,
    title="ChatGLM3",
    tokenizer_marks=("chatglm3", "<|user|>"),
    released={"chatglm3-6b": {"_name_or_path": "THUDM/chatglm3-6b", **RELEASED_SIZES, "seq_length": 8192}},
)
