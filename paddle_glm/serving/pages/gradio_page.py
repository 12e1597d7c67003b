"""What the buttons of gradio's chat page do, for each visitor one at a time."""

import html
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.serving import conversation
from paddle_glm.serving.pages.answer_markdown import Formulas, to_markdown
from paddle_glm.serving.pages.answers import error_text, stream_answers
from paddle_glm.serving.pages.chat_provider import ChatProvider

Columns = list[list[Message]]
"""The conversation with each model: one, or two side by side."""
Update = tuple[Any, ...]
"""Arguments of `outputs`, of which the first are the new columns."""

# Gradio looks for formulas before Markdown, in code too: an invisible separator tells them from its dollars.
MARK = "\u2063"
FORMULAS = Formulas((f"{MARK}$", f"${MARK}"), (f"{MARK}$$", f"$${MARK}"), escapes_dollars=False)
PATIENCE_SECONDS = 5  # with an answer that another action ends, which takes a tenth of a second
OUTPUTS = 5  # of the functions behind the buttons
_TURNS = threading.Lock()


class Settings(NamedTuple):
    """What the page is set to; compared: a second model, or nothing."""

    model: str
    compared: str
    system: str
    temperature: float
    top_p: float
    max_new_tokens: int

    def values(self) -> dict[str, float]:
        """What the sliders say, by name."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": int(self.max_new_tokens),
        }


@dataclass
class Visit:
    """A visitor's conversations, which one action at a time may change; gradio copies it for each visitor."""

    columns: Columns
    _last: threading.Event | None = None  # set when the last action that began has ended

    @contextmanager
    def turn(self) -> Iterator[Callable[[], bool]]:
        """Ask the action in work to end, and wait for that. Yields whether another one waits for this."""
        mine = threading.Event()
        with _TURNS:
            before, self._last = self._last, mine
        if before is not None:
            before.wait(PATIENCE_SECONDS)
        try:
            yield lambda: self._last is not mine
        finally:
            mine.set()


class Page:
    """What the page's buttons do. Every conversation starts with `initial_messages`.

    Outputs are (first chat, second chat, text box, notice, button that drops rounds).
    """

    def __init__(self, provider: ChatProvider, initial_messages: list[Message]) -> None:
        self.provider, self.initial_messages = provider, initial_messages

    def ask(
        self,
        visit: Visit,
        question: str,
        model: str,
        compared: str,
        system: str,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield outputs while the answers grow, until another action begins."""
        settings = Settings(model, compared, system, temperature, top_p, max_new_tokens)
        yield from self._answer(visit, lambda: self._updates(visit.columns, question, settings))

    def ask_again(self, visit: Visit, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """`ask` for another answer to the last question."""

        def updates() -> Iterator[Update]:
            before, question = without_last_round(visit.columns)
            return self._updates(before, question, Settings(*settings), kept=visit.columns)

        yield from self._answer(visit, updates)

    def ask_without_oldest_rounds(
        self, visit: Visit, question: str, *settings: Any
    ) -> Iterator[tuple[Any, ...]]:
        """`ask` without as many of the oldest rounds as it takes."""

        def updates() -> Iterator[Update]:
            return self._updates(visit.columns, question, Settings(*settings), drops_rounds=True)

        yield from self._answer(visit, updates)

    def _answer(self, visit: Visit, updates: Callable[[], Iterator[Update]]) -> Iterator[tuple[Any, ...]]:
        with visit.turn() as is_over:
            try:
                for columns, *rest in updates():
                    if is_over():
                        break
                    visit.columns = columns
                    yield outputs(columns, *rest)
            except InputError as error:
                yield outputs(visit.columns, notice=str(error))
            interrupted = is_over()
        if interrupted:  # gradio repeats the last outputs at the end, over what came after them
            yield (gr.skip(),) * OUTPUTS

    def _updates(
        self,
        columns: Columns,
        question: str,
        settings: Settings,
        *,
        drops_rounds: bool = False,
        kept: Columns | None = None,
    ) -> Iterator[Update]:
        """Yield arguments of `outputs`. kept: what a failure goes back to."""
        if not question.strip():
            yield columns, ""
            return
        models = [settings.model, settings.compared] if settings.compared else [settings.model]
        sessions = [partial(self.provider.open, settings.values(), name) for name in models]
        asked = [
            conversation.with_question(conversation.with_system_prompt(messages, settings.system), question)
            for messages in resized(columns, len(models))
        ]
        box: Any = ""
        while True:
            for answers in stream_answers(sessions, asked):
                # Kept if the visitor stops the answers.
                yield (
                    [[*one, *answer.kept_messages()] for one, answer in zip(asked, answers, strict=True)],
                    box,
                )
                box = gr.skip()  # where the next question may be in work
            errors = [answer.error for answer in answers if answer.error]
            long = [
                isinstance(answer.error, PromptTooLongError) and conversation.count_rounds(one) > 1
                for one, answer in zip(asked, answers, strict=True)
            ]
            if not (drops_rounds and any(long)):
                break
            asked = [
                conversation.without_oldest_round(one) if cut else one
                for one, cut in zip(asked, long, strict=True)
            ]
        if errors:
            notice = "\n".join(dict.fromkeys(map(error_text, errors)))
            yield columns if kept is None else kept, question, notice, any(long)

    def take_back(self, visit: Visit, *, edits: bool) -> tuple[Any, ...]:
        """Delete the last round; edits: its question goes into the text box."""
        with visit.turn():
            try:
                visit.columns, question = without_last_round(visit.columns)
            except InputError as error:
                return outputs(visit.columns, notice=str(error))
            return outputs(visit.columns, question if edits else None)

    def stop(self, visit: Visit) -> None:
        with visit.turn():
            pass

    def clear(self, visit: Visit, compared: str) -> tuple[Any, ...]:
        with visit.turn():
            visit.columns = resized([list(self.initial_messages)], 2 if compared else 1)
            return outputs(visit.columns)

    def load(self, visit: Visit, compared: str, file: bytes) -> tuple[Any, ...]:
        """Go on with a saved conversation; the last output is its system prompt."""
        with visit.turn():
            try:
                messages = conversation.from_json(file.decode("utf-8", "replace"), "文件")
            except InputError as error:
                return *outputs(visit.columns, notice=str(error)), gr.skip()
            visit.columns = resized([messages], 2 if compared else 1)
            return *outputs(visit.columns), conversation.system_prompt(messages)


def without_last_round(columns: Columns) -> tuple[Columns, str]:
    """The conversations without their last round, and its question. Raises `InputError` if there is none."""
    before = [conversation.without_last_round(messages) for messages in columns]
    return [messages for messages, _ in before], before[0][1]


def resized(columns: Columns, count: int) -> Columns:
    """As many columns; a new one begins with the first one's conversation."""
    return [*columns[:count], *columns[:1] * (count - len(columns))]


def outputs(columns: Columns, box: Any = None, notice: str = "", drops: bool = False) -> tuple[Any, ...]:
    """See `Page`. box: content of the text box, None leaves it."""
    chats = [to_gradio_messages(messages) for messages in columns]
    return (
        *(chats if len(chats) == 2 else [*chats, gr.skip()]),
        gr.skip() if box is None else box,
        verbatim(notice) if notice else "",
        gr.update(visible=drops or "hidden"),
    )


def to_gradio_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """What is shown of a conversation: questions verbatim, answers as Markdown."""
    return [
        {
            "role": message["role"],
            "content": verbatim(message["content"])
            if message["role"] == "user"
            else to_markdown(message["content"].replace(MARK, ""), FORMULAS),
        }
        for message in conversation.visible_messages(messages)
    ]


def verbatim(text: str) -> str:
    """HTML that shows the text as it is; Markdown does not look into `pre`."""
    return f'<pre class="verbatim">{html.escape(text.replace(MARK, ""))}</pre>'
