"""The prompt of ChatGLM-6B (`build_prompt`/`build_chat_input` and `process_response` of its original)."""

from paddle_glm.chat_template import RoundTemplate

CHATGLM = RoundTemplate(
    name="chatglm",
    prefix_tokens=(),
    suffix_tokens=("[gMASK]", "<sop>"),
    end_token="<eop>",
    stop_tokens=("<eop>",),
    replacements=(("[[训练时间]]", "2023年"),),
    # Its SentencePiece model makes these narrow.
    wide_punctuation=((",", "，"), ("!", "！"), (":", "："), (";", "；"), ("?", "？")),
    first_round=0,
    question="[Round {round}]\n问：{query}\n答：",
    answer="{response}\n",
    lone_question="{query}",
    source_reserved=1,
    target_reserved=2,
    trained_suffix=1,
)
