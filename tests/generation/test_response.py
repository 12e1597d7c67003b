from hypothesis import given
from hypothesis import strategies as st

from paddle_glm.generation.response_parser import (
    StreamingResponseParser,
    parse_messages,
    parse_tool_call,
    visible_text,
)
from paddle_glm.models.chatglm.template import CHATGLM
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.chatglm3.template import CHATGLM3


def streamed(template, pieces):
    stream = StreamingResponseParser(template)
    out = [stream.push(piece) for piece in pieces]
    return [*out, stream.finish()]


def test_chatglm2_strips_and_names_its_year():
    assert streamed(CHATGLM2, ["\n 我", "的[", "[训练", "时间", "]]数据 ", " \n"]) == [
        "我", "的", "", "", "2023年数据", "", ""
    ]  # fmt: skip


def test_what_only_looked_like_the_placeholder_is_given_out():
    assert "".join(streamed(CHATGLM2, ["见[[训练", "结果]]"])) == "见[[训练结果]]"
    assert "".join(streamed(CHATGLM2, ["见[["])) == "见[["


def test_chatglm3_drops_the_blank_header_line():
    assert streamed(CHATGLM3, ["\n", " 你", "好 "]) == ["", "你", "好", ""]
    assert "".join(streamed(CHATGLM3, ["no line break"])) == "no line break"


def test_chatglm3_may_take_the_turn_again_to_call_a_tool():
    text = "\n 我来查<|assistant|>get_weather\n```python\ntool_call(city='北京', days=3)\n```"
    messages = parse_messages(CHATGLM3, text)
    assert [message["metadata"] for message in messages] == ["", "get_weather"]
    assert messages[0]["content"] == "我来查"
    assert parse_tool_call(messages[1]) == {"name": "get_weather", "parameters": {"city": "北京", "days": 3}}


def test_a_tool_call_is_read_and_never_run():
    content = "```python\ntool_call(city=__import__('os').getcwd())\n```"
    message = {"role": "assistant", "metadata": "get_weather", "content": content}
    assert parse_tool_call(message) == {"name": "get_weather", "content": content}
    for text in ("tool_call(", "", "tool_call('北京')", "x.y(a=1)", "7"):
        content = f"```python\n{text}\n```"
        assert parse_tool_call({**message, "content": content}) == {"name": "get_weather", "content": content}


def test_punctuation_waits_for_what_comes_next():
    assert streamed(CHATGLM, ["好", ",", "b", "!", "好?"]) == ["好", "，", "b", "", "！好？", ""]
    assert streamed(CHATGLM, ["a", ",", " b", "?"]) == ["a", "", ", b", "", "?"]


PARTS = st.sampled_from(
    ["\n", " ", "[", "[[训练时间]]", "时间]]", "好", ",", "?!", "2", "<|assistant|>", "tool"]
)


@given(st.lists(PARTS), st.sampled_from([CHATGLM, CHATGLM2, CHATGLM3]), st.booleans())
def test_pieces_joined_are_the_whole(parts, template, hide_tool_calls):
    stream = StreamingResponseParser(template, hide_tool_calls)
    pieces = [*map(stream.push, parts), stream.finish()]
    messages = parse_messages(template, "".join(parts))
    assert stream.messages() == messages
    shown = [one for one in messages if not (hide_tool_calls and one.get("metadata"))]
    assert "".join(pieces) == visible_text(shown)
