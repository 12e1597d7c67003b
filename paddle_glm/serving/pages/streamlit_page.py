"""The chat page of streamlit, which runs `show` anew at every interaction.

What a click changes is in callbacks, which come before the run that draws the change.
"""

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import streamlit as st

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.serving import conversation
from paddle_glm.serving.pages.answer_markdown import to_markdown
from paddle_glm.serving.pages.answers import Answer, error_text, stream_answers
from paddle_glm.serving.pages.chat_provider import ChatProvider

Talks = list[list[Message]]
# Streamlit leaves much room around a page; the button that stops an answer stays in sight above the input.
STYLE = """<style>
.stMainBlockContainer { padding-top: 3.5rem; }
.stMainBlockContainer, [data-testid="stBottomBlockContainer"] { padding-left: 1rem; padding-right: 1rem; }
.st-key-stop { position: sticky; bottom: 8.5rem; }
[data-testid="stChatMessage"] [data-testid="stText"] { white-space: pre-wrap; overflow-wrap: anywhere; }
[data-testid="stMarkdownContainer"] .katex-display { overflow-x: auto; overflow-y: hidden; }
</style>"""


@dataclass(frozen=True)
class Settings:
    """What the sidebar says: values of the sliders by name, and one or two models."""

    values: dict[str, Any]
    models: list[str]


@dataclass(frozen=True)
class Failure:
    """A question without an answer, and why."""

    question: str
    error: Exception


@dataclass
class Asked:
    """A question being answered: the conversations that end in it, and the answers so far."""

    question: str
    talks: Talks
    answers: list[Answer] = field(default_factory=list)


@dataclass
class Visit:
    """What the page knows of a visitor.

    talks: the conversation, or those of two models side by side, with the same questions. asking: what the
    next run is to answer. current: what a run is answering now, if anything. draft: text for the input.
    failure: why the last question has no answer. file_error: why a file was not loaded. A click begins a run
    while the one that it interrupts still goes on, in another thread: `lock` is held for every change.
    """

    talks: Talks
    asking: str | None = None
    current: Asked | None = None
    draft: str | None = None
    failure: Failure | None = None
    file_error: str | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self) -> Asked | None:
        """Take up the question that waits, unless another run or a change of the conversation did."""
        with self.lock:
            if self.asking is not None:
                question, self.asking = self.asking, None
                self.current = Asked(
                    question, [conversation.with_question(talk, question) for talk in self.talks]
                )
                return self.current
        return None

    def settle(self) -> None:
        """End what is being answered: keep the round, unless an answer failed or has not begun.

        The run that answers and the one that interrupts it do this: whoever comes first.
        """
        with self.lock:
            asked, self.current = self.current, None
            if asked is None:
                return
            errors = [answer.error for answer in asked.answers if answer.error]
            parts = [answer.kept_messages() for answer in asked.answers]
            if errors:
                self.failure = Failure(asked.question, errors[0])
            if errors or not parts or not all(parts):
                self.draft = asked.question
            else:
                self.talks = [[*talk, *part] for talk, part in zip(asked.talks, parts, strict=True)]

    def change(self, change: Callable[[list[Message]], list[Message]]) -> None:
        with self.lock:
            self.settle()
            self.talks = [change(talk) for talk in self.talks]
            self.asking = self.failure = None

    def arrange(self, count: int, system: str) -> None:
        """Conversations for so many models, with a system prompt; a second goes on from the first's."""
        with self.lock:
            talks = [*self.talks, self.talks[0]][:count]
            self.talks = [conversation.with_system_prompt(talk, system) for talk in talks]

    def ask(self, question: str) -> None:
        with self.lock:
            self.settle()
            self.asking = question if question.strip() else None
            self.draft = self.failure = None

    @property
    def rounds(self) -> int:
        return conversation.count_rounds(self.talks[0])

    def delete_last_round(self) -> None:
        self.change(lambda talk: conversation.without_last_round(talk)[0])

    def edit_last_round(self) -> None:
        self.draft = conversation.without_last_round(self.talks[0])[1]
        self.delete_last_round()

    def repeat_last_round(self) -> None:
        question = conversation.without_last_round(self.talks[0])[1]
        self.delete_last_round()
        self.ask(question)

    def retry_without_oldest_round(self, question: str) -> None:
        self.change(conversation.without_oldest_round)
        self.ask(question)
        self.draft = ""

    def load(self, text: bytes, name: str) -> str:
        """Go on with a saved conversation; return its system prompt. Raises `InputError`."""
        messages = conversation.from_json(text, name)
        with self.lock:
            self.settle()
            self.talks = [messages]
            self.asking = self.failure = None
        return conversation.system_prompt(messages)


def show(provider: ChatProvider, initial_messages: list[Message]) -> None:
    """Draw the page: the conversation so far, and the answer to a question that waits for one."""
    st.set_page_config(page_title=provider.title)
    st.html(STYLE)
    if "visit" not in st.session_state:
        st.session_state["visit"] = Visit([list(initial_messages)])
        st.session_state["system"] = conversation.system_prompt(initial_messages)
    visit: Visit = st.session_state["visit"]
    visit.settle()
    if visit.draft is not None:
        st.session_state["input"], visit.draft = visit.draft, None
    st.subheader(provider.title)
    settings = _draw_sidebar(provider, visit)
    if len(settings.models) > 1:
        st.set_page_config(layout="wide")
    _draw_rounds(visit, settings.models)
    st.chat_input("输入内容，回车发送", key="input", on_submit=lambda: visit.ask(st.session_state["input"]))
    if visit.asking is not None:
        _answer(provider, settings, visit, visit.asking)
        st.rerun()
    _draw_actions(visit)


def _draw_sidebar(provider: ChatProvider, visit: Visit) -> Settings:
    with st.sidebar:
        models = [provider.models[0]]
        if len(provider.models) > 1:
            models = [st.selectbox("模型", provider.models) or models[0]]
            others = [name for name in provider.models if name != models[0]]
            second = st.selectbox("对比", others, index=None, placeholder="不对比")
            models += [second] if second else []
        system = st.text_area("系统提示", key="system", height=80)
        visit.arrange(len(models), system.strip())
        _draw_conversation_buttons(visit, models)
        values = {
            "temperature": st.slider(
                "temperature（0：不采样）",
                0.0,
                provider.slider_max_temperature,
                provider.temperature,
                0.05,
            ),
            "top_p": st.slider("top_p", 0.01, 1.0, provider.top_p, 0.01),
            "max_new_tokens": st.slider(
                "max_new_tokens", 1, provider.slider_max_new_tokens, provider.max_new_tokens
            ),
        }
    return Settings(values, models)


def _draw_conversation_buttons(visit: Visit, models: Sequence[str]) -> None:
    with st.container(horizontal=True):
        st.button("清空对话", on_click=visit.change, args=(conversation.without_rounds,), width="stretch")
        for number, (model, talk) in enumerate(zip(models, visit.talks, strict=True), 1):
            st.download_button(
                "下载对话" if len(models) == 1 else f"下载对话（{model}）",
                conversation.to_json(talk),
                "conversation.json" if len(models) == 1 else f"conversation-{number}.json",
                "application/json",
                key=f"download {number}",
                on_click="ignore",
                width="stretch",
            )
        with st.popover("载入对话", width="stretch"):
            st.file_uploader("下载对话所得的文件", "json", key="file", on_change=_load, args=(visit,))
    if visit.file_error:
        st.error(_verbatim(visit.file_error))


def _draw_rounds(visit: Visit, models: Sequence[str]) -> None:
    rounds = zip(*(conversation.rounds(talk) for talk in visit.talks), strict=True)
    for same_question in rounds:
        _draw_question(same_question[0][0])
        for place, (_, answer) in zip(_answer_places(models), same_question, strict=True):
            place.markdown(_shown(visible_text(answer)))


def _draw_question(question: str) -> None:
    # A word joiner, which is invisible, keeps streamlit from removing white space at the beginning.
    st.chat_message("user").text(("\u2060" if question[:1].isspace() else "") + question)


def _answer_places(models: Sequence[str]) -> list[Any]:
    """A place for each model's answer, one below the other on a narrow screen."""
    places = []
    for column, model in zip(st.columns(len(models)), models, strict=True):
        with column, st.chat_message("assistant"):
            if len(models) > 1:
                st.caption(model)
            places.append(st.empty())
    return places


def _shown(answer: str) -> str:
    """An answer's Markdown without streamlit's own, such as `:red[text]`."""
    return re.sub(r":(?=[a-z][\w/-]*[\[:])", r"\\:", to_markdown(answer))


def _verbatim(text: str) -> str:
    """Markdown that shows `text` as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _answer(provider: ChatProvider, settings: Settings, visit: Visit, question: str) -> None:
    """Draw the answers while they grow. A click ends this, between two looks at them."""
    _draw_question(question)
    places = _answer_places(settings.models)
    st.button("停止", key="stop")  # any click interrupts; this one changes nothing else
    sessions = [partial(provider.open, settings.values, model) for model in settings.models]
    if (asked := visit.begin()) is None:
        return
    with closing(stream_answers(sessions, asked.talks)) as stream:
        for answers in stream:
            asked.answers = answers
            for place, answer in zip(places, answers, strict=True):
                place.markdown(_shown(answer.text) + " ▌")
    visit.settle()


def _draw_actions(visit: Visit) -> None:
    """What can be done about the last round, or about an error."""
    if failure := visit.failure:
        st.error(_verbatim(error_text(failure.error)))
        if isinstance(failure.error, PromptTooLongError) and visit.rounds:
            st.button(
                "删除最早的一轮并重试", on_click=visit.retry_without_oldest_round, args=(failure.question,)
            )
    elif visit.rounds:
        with st.container(horizontal=True):
            st.button("重新生成", on_click=visit.repeat_last_round)
            st.button("编辑上一轮", on_click=visit.edit_last_round)
            st.button("删除上一轮", on_click=visit.delete_last_round)


def _load(visit: Visit) -> None:
    visit.file_error = None
    if (file := st.session_state["file"]) is None:
        return
    try:
        st.session_state["system"] = visit.load(file.getvalue(), file.name)
    except InputError as error:
        visit.file_error = str(error)
