"""Prompts and loss masks against the originals' preprocessing, and the rules of each layout."""

import json

import pytest

from paddle_glm.chat_template import messages_from_history, parse_response, render, template_from_dict
from paddle_glm.errors import InputError
from paddle_glm.models.chatglm.template import CHATGLM
from paddle_glm.models.chatglm.tokenizer import ChatGLMTokenizer
from paddle_glm.models.chatglm2.template import CHATGLM2
from paddle_glm.models.chatglm2.tokenizer import ChatGLM2Tokenizer
from paddle_glm.models.chatglm3.template import CHATGLM3
from paddle_glm.models.chatglm3.tokenizer import ChatGLM3Tokenizer
from tests.paths import data, reference
from tests.tiny_sentencepiece import write_tiny_model


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tokenizer.model")


@pytest.fixture(scope="module")
def two(model_file):
    return ChatGLM2Tokenizer(model_file)


@pytest.fixture(scope="module")
def three(model_file):
    return ChatGLM3Tokenizer(model_file)


@pytest.mark.parametrize("family", ["chatglm2_6b", "chatglm_6b"])
def test_preprocessing_of_fifty_rows(family):
    golden = json.loads(reference("tokenizers/ptuning_preprocess_dev50.json").read_text(encoding="utf-8"))
    if family == "chatglm_6b":
        tokenizer, spare = ChatGLMTokenizer(data("tokenizers/chatglm-6b/ice_text.model")), 0
    else:
        tokenizer, spare = ChatGLM2Tokenizer(data("tokenizers/chatglm2-6b/tokenizer.model")), 1
    compared = 0
    for case in golden[family]:
        source, target = case["max_source_length"], case["max_target_length"]
        for row, ids, labels in zip(golden["rows"], case["input_ids"], case["labels"], strict=True):
            messages = [
                {"role": "user", "content": row["content"]},
                {"role": "assistant", "content": row["summary"]},
            ]
            rendered = render(tokenizer.template, tokenizer, messages, source, target)
            padding = source + target + spare - len(rendered.input_ids)
            assert rendered.input_ids + [tokenizer.pad_token_id] * padding == ids
            assert rendered.labels() + [-100] * padding == labels
            compared += 1
    assert compared == 100


@pytest.mark.parametrize(("template", "name"), [(CHATGLM2, "chatglm2_6b"), (CHATGLM, "chatglm_6b")])
def test_prompt_text_with_history(template, name):
    case = json.loads(reference(f"tokenizers/{name}.json").read_text(encoding="utf-8"))["chat_prompt"]
    assert template.prompt(case["query"], case["history"]) == case["prompt"]


def test_chatglm2_prompt_ids_are_the_tokenizers(two):
    history = [("你好", "你好！"), ("{round}", "{query}")]
    rendered = render(CHATGLM2, two, messages_from_history("再见", history))
    assert rendered.input_ids == two.encode(two.build_prompt("再见", history))
    assert rendered.loss_mask == [0] * len(rendered.input_ids)
    cut = render(CHATGLM2, two, messages_from_history("再见", history), max_source_length=9)
    assert cut.input_ids == rendered.input_ids[:9]


def test_chatglm2_trains_on_the_last_answer(two):
    messages = [
        *messages_from_history("再见", [("你好", "你好！")]),
        {"role": "assistant", "content": "明天见"},
    ]
    rendered = render(CHATGLM2, two, messages)
    prompt = render(CHATGLM2, two, messages[:-1]).input_ids
    assert rendered.input_ids[: len(prompt)] == prompt
    answer = [*two.encode("明天见", add_special_tokens=False), two.eos_token_id]
    assert rendered.labels() == [-100] * len(prompt) + answer


def test_chatglm2_puts_a_system_message_before_the_question(two):
    with_system = render(CHATGLM2, two, messages_from_history("你好", system="你是诗人。"))
    assert with_system.input_ids == two.encode(two.build_prompt("你是诗人。你好"))


def test_chatglm3_trains_on_every_answer_and_what_ends_it(three):
    messages = [
        {"role": "system", "content": "你是诗人。"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "世界"},
        {"role": "user", "content": "时尚"},
        {"role": "assistant", "content": "你好，世界！"},
    ]
    rendered = render(CHATGLM3, three, messages)

    def part(role, content):
        return three.build_single_message(role, "", content)

    first = [*three.encode("")[:2], *part("system", "你是诗人。"), *part("user", "你好")]
    answer, question, last = (
        part("assistant", "世界"),
        part("user", "时尚"),
        part("assistant", "你好，世界！"),
    )
    assert rendered.input_ids == [*first, *answer, *question, *last, three.eos_token_id]
    assert rendered.loss_mask == (
        [0] * len(first)
        + [0] + [1] * (len(answer) - 1)
        + [1] + [0] * (len(question) - 1)
        + [0] + [1] * len(last)
    )  # fmt: skip
    assert answer[:1] == [three.get_command("<|assistant|>")]
    assert answer[1:] == three.encode("\n", add_special_tokens=False) + three.encode(
        "世界", add_special_tokens=False
    )


def test_chatglm3_lengths(three):
    messages = [*messages_from_history("你好，世界！"), {"role": "assistant", "content": "你好，世界！" * 5}]
    whole = render(CHATGLM3, three, messages)
    assert render(CHATGLM3, three, messages, 10, 12).input_ids == whole.input_ids[:23]
    assert render(CHATGLM3, three, messages, 10, 12).loss_mask == whole.loss_mask[:23]
    prompt = render(CHATGLM3, three, messages[:-1], max_source_length=4).input_ids
    assert prompt == [*whole.input_ids[:4], three.get_command("<|assistant|>")]


def test_chatglm3_tools_and_metadata(three):
    tools = [{"name": "天气", "parameters": {"city": "str"}}]
    messages = [
        {"role": "system", "content": "回答问题", "tools": tools},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "metadata": "天气", "content": "call"},
        {"role": "observation", "content": "晴"},
    ]
    ids = render(CHATGLM3, three, messages).input_ids
    listed = "回答问题\n" + json.dumps(tools, indent=4, ensure_ascii=False)
    assert ids == [
        *three.encode("")[:2],
        *three.build_single_message("system", "", listed),
        *three.build_single_message("user", "", "你好"),
        *three.build_single_message("assistant", "天气", "call"),
        *three.build_single_message("observation", "", "晴"),
        three.get_command("<|assistant|>"),
    ]
    inputs = three.build_chat_input("晴", history=messages[:-1], role="observation", return_tensors=None)
    assert inputs["input_ids"] == [ids]


def test_padding_ids_in_an_answer_are_not_trained_on(model_file):
    class SpellsUnknown(ChatGLM2Tokenizer):
        def encode(self, text, *arguments, **options):
            return [5, self.pad_token_id, 6]

    messages = [*messages_from_history("你好"), {"role": "assistant", "content": "x"}]
    assert render(CHATGLM2, SpellsUnknown(model_file), messages).loss_mask[-4:] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (CHATGLM2, [], "empty conversation"),
        (CHATGLM2, ["你好"], "message 1"),
        (CHATGLM2, [{"role": "user", "content": None}], "expected text"),
        (CHATGLM2, [{"role": "system", "content": "x"}], "needs a user message"),
        (CHATGLM2, [{"role": "assistant", "content": "x"}], "expected 'user'"),
        (CHATGLM2, [{"role": "user", "content": "x"}] * 2, "message 2 has the role 'user'"),
        (CHATGLM3, [{"role": "tool", "content": "x"}], "'tool'.*observation"),
    ],
)
def test_unusable_conversations(two, three, template, messages, reason):
    with pytest.raises(InputError, match=reason):
        render(template, three if template is CHATGLM3 else two, messages)


def test_history_forms():
    pairs = messages_from_history("b", [("q", "a")], system="s")
    objects = messages_from_history("b", pairs[1:3], system="s")
    assert pairs == objects
    assert [message["role"] for message in pairs] == ["system", "user", "assistant", "user"]
    for wrong in ("text", ("one",)):
        with pytest.raises(InputError, match="history holds"):
            messages_from_history("b", [wrong])


def test_responses():
    assert parse_response(CHATGLM2, " [[训练时间]]好 \n") == {"role": "assistant", "content": "2023年好"}
    assert parse_response(CHATGLM3, "\n 你好\n世界")["content"] == "你好\n世界"
    assert parse_response(CHATGLM3, " \n 你好")["metadata"] == ""
    assert parse_response(CHATGLM3, "天气\ncall()") == {
        "role": "assistant",
        "metadata": "天气",
        "content": "call()",
    }
    assert parse_response(CHATGLM3, "未完")["content"] == "未完"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("你好,世界!", "你好，世界！"),
        ("Hello, world!", "Hello, world!"),
        ("是吗?Yes, 对:a;b", "是吗？Yes, 对：a;b"),
        ("1,000;a:b", "1,000;a:b"),
        (" [[训练时间]],好! \n", "2023年，好！"),
        ("好,,好,a,好", "好，，好，a，好"),
    ],
)
def test_wide_punctuation_stands_beside_chinese(answer, shown):
    assert parse_response(CHATGLM, answer)["content"] == shown
    assert parse_response(CHATGLM2, "你好,世界!")["content"] == "你好,世界!"


@pytest.mark.parametrize("template", [CHATGLM, CHATGLM2, CHATGLM3])
def test_templates_survive_json(template):
    assert template_from_dict(json.loads(json.dumps(template.to_dict()))) == template


def test_templates_from_wrong_json():
    with pytest.raises(InputError, match=r"layout 'x'.*rounds, roles"):
        template_from_dict({"layout": "x"})
    values = CHATGLM2.to_dict()
    del values["question"]
    with pytest.raises(InputError, match="check question"):
        template_from_dict(values)
