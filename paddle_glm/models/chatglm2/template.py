"""The prompt of ChatGLM2-6B (`build_prompt`/`build_chat_input` and `process_response` of its original)."""

from paddle_glm.chat_template import RoundTemplate

CHATGLM2 = RoundTemplate(
    name="chatglm2",
    prefix_tokens=("[gMASK]", "sop"),
    suffix_tokens=(),
    end_token="<eos>",
    stop_tokens=("<eos>",),
    replacements=(("[[训练时间]]", "2023年"),),
    wide_punctuation=(),
    first_round=1,
    question="[Round {round}]\n\n问：{query}\n\n答：",
    answer="{response}\n\n",
    lone_question="[Round {round}]\n\n问：{query}\n\n答：",
    source_reserved=2,
    target_reserved=0,
    trained_suffix=0,
)
