"""The prompt of ChatGLM3-6B (`build_prompt`/`build_chat_input` and `process_response` of its original)."""

from paddle_glm.chat_template import RoleTemplate

CHATGLM3 = RoleTemplate(
    name="chatglm3",
    prefix_tokens=("[gMASK]", "sop"),
    end_token="<eos>",
    stop_tokens=("<eos>", "<|user|>", "<|observation|>"),
    replacements=(("[[训练时间]]", "2023年"),),
    wide_punctuation=(),
    roles=(
        ("system", "<|system|>"),
        ("user", "<|user|>"),
        ("assistant", "<|assistant|>"),
        ("observation", "<|observation|>"),
    ),
    header="{metadata}\n",
    reply_role="assistant",
)
