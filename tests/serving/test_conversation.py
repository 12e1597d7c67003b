"""Conversations as lists of messages: rounds, system prompts, files."""

import json

import pytest

from paddle_glm.errors import InputError
from paddle_glm.serving import conversation

SYSTEM = {"role": "system", "content": "短"}
FIRST = [{"role": "user", "content": "*一*\n"}, {"role": "assistant", "content": "甲"}]
# A tool's call and its result belong to the round of their question.
SECOND = [
    {"role": "user", "content": "二"},
    {"role": "assistant", "metadata": "weather", "content": "乙"},
    {"role": "observation", "content": "22"},
    {"role": "assistant", "metadata": "", "content": "丙"},
]


@pytest.mark.parametrize("head", [[], [SYSTEM]], ids=["bare", "system"])
def test_rounds(head):
    whole = [*head, *FIRST, *SECOND]
    assert conversation.count_rounds(whole) == 2
    assert conversation.visible_messages(whole) == [*FIRST, *SECOND[:2], SECOND[3]]
    assert conversation.without_rounds(whole) == head
    assert conversation.without_oldest_round(whole) == [*head, *SECOND]
    assert conversation.without_last_round(whole) == ([*head, *FIRST], "二")
    assert conversation.without_oldest_round([*head, *FIRST]) == head
    assert conversation.with_question(head, "一") == [*head, {"role": "user", "content": "一"}]
    assert conversation.with_question([*head, *FIRST[:1]], "一") == [*head, {"role": "user", "content": "一"}]
    assert whole == [*head, *FIRST, *SECOND]
    for without in (conversation.without_oldest_round, conversation.without_last_round):
        with pytest.raises(InputError, match="no round"):
            without(head)


def test_system_prompts():
    whole = [SYSTEM, *FIRST]
    assert (conversation.system_prompt(whole), conversation.system_prompt(FIRST)) == ("短", "")
    assert conversation.system_prompt([]) == ""
    assert conversation.with_system_prompt(FIRST, "短") == whole
    assert conversation.with_system_prompt(whole, "") == FIRST
    assert conversation.with_system_prompt(whole, "长") == [{"role": "system", "content": "长"}, *FIRST]
    assert conversation.with_system_prompt([{**SYSTEM, "content": ""}, *FIRST], "短") == whole
    tools = [{**SYSTEM, "tools": [{"name": "weather"}]}, *FIRST]
    assert conversation.with_system_prompt(tools, "短") == tools


def test_files(tmp_path):
    path, whole = tmp_path / "talk.json", [SYSTEM, *FIRST, *SECOND, {"role": "user", "content": "\ud800"}]
    conversation.save(whole, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"messages": whole}
    assert conversation.load(path) == whole
    with pytest.raises(InputError, match=r"talk\.json .* exists"):
        conversation.save(whole, path)
    with pytest.raises(InputError, match="cannot be written"):
        conversation.save(whole, tmp_path / "nowhere" / "talk.json")
    with pytest.raises(InputError, match="cannot be read"):
        conversation.load(tmp_path / "nowhere.json")
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="is no saved conversation"):
        conversation.load(path)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"messages": {}}', '{"messages": [1]}', '{"messages": [{"role": "user"}]}',
     '{"messages": [{"role": "user", "content": null}]}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_conversation(text):
    with pytest.raises(InputError, match=r"^mine .* is no saved conversation"):
        conversation.from_json(text, "mine")
