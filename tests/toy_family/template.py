"""The prompt of the toy family."""

from paddle_glm.chat_template import RoundTemplate

TEMPLATE = RoundTemplate(
    name="toy",
    prefix_tokens=("<start>",),
    suffix_tokens=("<answer>",),
    end_token="<end>",
    stop_tokens=("<end>",),
    replacements=(),
    wide_punctuation=(),
    first_round=1,
    question="Q: {query}\n",
    answer="{response}\n",
    lone_question="Q: {query}\n",
    source_reserved=2,
    target_reserved=1,
    trained_suffix=0,
)
