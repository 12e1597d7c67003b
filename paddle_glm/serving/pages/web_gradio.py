"""Chat page with gradio."""

import html
import logging
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

# Set before the import, which otherwise sends telemetry.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi.middleware import Middleware

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError, PromptTooLongError
from paddle_glm.serving import conversation
from paddle_glm.serving.http.middleware import ContentSecurityMiddleware
from paddle_glm.serving.pages.answer_markdown import Formulas, to_markdown
from paddle_glm.serving.pages.answers import error_text, stream_answers
from paddle_glm.serving.pages.chat_provider import ChatProvider

Columns = list[list[Message]]
"""The conversation with each model: one, or two side by side."""

# System fonts: gradio's default theme downloads fonts from a CDN.
FONTS = ("system-ui", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif")
# Gradio looks for formulas before Markdown, in code too: an invisible separator tells them from its dollars.
MARK = "\u2063"
FORMULAS = Formulas((f"{MARK}$", f"${MARK}"), (f"{MARK}$$", f"$${MARK}"), escapes_dollars=False)
MAX_UPLOAD = "10mb"
KEPT_SECONDS = 3600  # of uploaded files
CSS = """
footer { display: none !important; }
pre.verbatim { margin: 0; padding: 0; border: 0; background: none; font: inherit; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.user-row + .message-buttons { display: none !important; }
.notice:not(:has(pre)) { display: none; }
.notice pre.verbatim { color: #dc2626; }
"""
# As `css` it would not reach the container.
HEAD = "<style>@media (max-width: 640px) { .gradio-container .app { padding: 8px !important; } }</style>"
SAVE = """(texts) => texts.forEach((text, place) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = place ? `conversation-${place + 1}.json` : "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
})"""


class Page:
    """What the page's buttons do. Every conversation starts with `initial_messages`.

    Outputs are (first chat, second chat, columns, text box, notice, button that drops rounds).
    """

    def __init__(self, provider: ChatProvider, initial_messages: list[Message]) -> None:
        self.provider, self.initial_messages = provider, initial_messages

    def ask(
        self,
        question: str,
        columns: Columns,
        model: str,
        compared: str,
        system: str,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        *,
        drops_rounds: bool = False,
        kept: Columns | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield outputs while the answers grow.

        drops_rounds: leave out as many of the oldest rounds as it takes. kept: what a failure goes back to.
        """
        if not question.strip():
            yield outputs(columns, "")
            return
        values = {"temperature": temperature, "top_p": top_p, "max_new_tokens": int(max_new_tokens)}
        models = [model, compared] if compared else [model]
        sessions = [partial(self.provider.open, values, name) for name in models]
        asked = [
            conversation.with_question(conversation.with_system_prompt(messages, system), question)
            for messages in resized(columns, len(models))
        ]
        box: Any = ""
        while True:
            for answers in stream_answers(sessions, asked):
                # Kept if the visitor stops the answers.
                yield outputs(
                    [[*one, *answer.kept_messages()] for one, answer in zip(asked, answers, strict=True)], box
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
            yield outputs(columns if kept is None else kept, question, notice, any(long))

    def ask_again(self, columns: Columns, *settings: Any) -> Iterator[tuple[Any, ...]]:
        """`ask` for another answer to the last question."""
        try:
            before = [conversation.without_last_round(messages) for messages in columns]
        except InputError as error:
            yield outputs(columns, notice=str(error))
            return
        yield from self.ask(before[0][1], [messages for messages, _ in before], *settings, kept=columns)

    def take_back(self, columns: Columns, *, edits: bool) -> tuple[Any, ...]:
        """Delete the last round; edits: its question goes into the text box."""
        try:
            before = [conversation.without_last_round(messages) for messages in columns]
        except InputError as error:
            return outputs(columns, notice=str(error))
        return outputs([messages for messages, _ in before], before[0][1] if edits else gr.skip())

    def clear(self, compared: str) -> tuple[Any, ...]:
        return outputs(resized([list(self.initial_messages)], 2 if compared else 1))

    def load(self, columns: Columns, compared: str, file: bytes) -> tuple[Any, ...]:
        """Go on with a saved conversation; the last output is its system prompt."""
        try:
            messages = conversation.from_json(file.decode("utf-8", "replace"), "文件")
        except InputError as error:
            return *outputs(columns, notice=str(error)), gr.skip()
        system = conversation.system_prompt(messages)
        return *outputs(resized([messages], 2 if compared else 1)), system


def resized(columns: Columns, count: int) -> Columns:
    """As many columns; a new one begins with the first one's conversation."""
    return [*columns[:count], *columns[:1] * (count - len(columns))]


def outputs(columns: Columns, box: Any = None, notice: str = "", drops: bool = False) -> tuple[Any, ...]:
    """See `Page`. box: content of the text box, None leaves it."""
    chats = [to_gradio_messages(messages) for messages in columns]
    return (
        *(chats if len(chats) == 2 else [*chats, gr.skip()]),
        columns,
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


def create_page(provider: ChatProvider, initial_messages: list[Message]) -> gr.Blocks:
    page = Page(provider, initial_messages)
    chooses = len(provider.models) > 1
    blocks: gr.Blocks
    with gr.Blocks(
        title=provider.title,
        analytics_enabled=False,
        fill_height=True,
        delete_cache=(KEPT_SECONDS, KEPT_SECONDS),
    ) as blocks:
        columns = gr.State([list(initial_messages)])
        gr.Markdown(f"## {provider.title}")
        with gr.Row(visible=chooses):
            model = gr.Dropdown(list(provider.models), value=provider.models[0], label="模型")
            compared = gr.Dropdown([("不对比", ""), *provider.models], value="", label="对比")
        with gr.Row(scale=1, elem_classes="chats"):
            chats = [_chat(True), _chat(False)]
        notice = gr.Markdown(elem_classes="notice", latex_delimiters=[])
        drop = gr.Button("删除最早的一轮并重试", visible="hidden", size="sm")
        with gr.Row():
            box = gr.Textbox(
                placeholder="输入内容，回车发送",
                show_label=False,
                autofocus=True,
                max_lines=8,
                scale=8,
                min_width=160,
            )
            send = gr.Button("发送", variant="primary", min_width=64)
            stop = gr.Button("停止", min_width=64)
        with gr.Row():
            again, edit, delete, clear = (
                gr.Button(text, size="sm", min_width=64)
                for text in ("重新生成", "编辑上一轮", "删除上一轮", "清空对话")
            )
        with gr.Accordion("设置", open=False):
            system = gr.Textbox(conversation.system_prompt(initial_messages), label="系统提示", max_lines=8)
            sliders = _sliders(provider)
            with gr.Row():
                save = gr.Button("下载对话", size="sm")
                load = gr.UploadButton("载入对话", size="sm", type="binary", file_types=[".json"])
        shown = [*chats, columns, box, notice, drop]
        settings = [model, compared, system, *sliders]
        asking = gr.on(
            [send.click, box.submit],
            page.ask,
            [box, columns, *settings],
            shown,
            api_name="chat",
        )
        # Of what follows, all ends an answer in work.
        private: dict[str, Any] = {"api_visibility": "private"}
        dropping = drop.click(
            partial(page.ask, drops_rounds=True), [box, columns, *settings], shown, cancels=asking, **private
        )
        again_asking = again.click(
            page.ask_again, [columns, *settings], shown, cancels=[asking, dropping], **private
        )
        private["cancels"] = [asking, dropping, again_asking]
        stop.click(None, **private)
        edit.click(partial(page.take_back, edits=True), columns, shown, **private)
        delete.click(partial(page.take_back, edits=False), columns, shown, **private)
        load.upload(page.load, [columns, compared, load], [*shown, system], **private)
        gr.on([model.change, compared.change], _labels, [model, compared], chats, **private)
        # The chats have a button of their own for it too.
        gr.on(
            [clear.click, *(chat.clear for chat in chats)],
            page.clear,
            compared,
            shown,
            api_name="clear",
            cancels=private["cancels"],
        )
        texts = gr.JSON(visible="hidden")
        save.click(
            lambda columns: list(map(conversation.to_json, columns)), columns, texts, api_visibility="private"
        ).then(None, texts, None, js=SAVE)
    return blocks


def _chat(visible: bool) -> gr.Chatbot:
    return gr.Chatbot(
        visible=visible,
        show_label=False,
        height="max(320px, calc(100dvh - 330px))",
        min_width=280,
        scale=1,
        buttons=["copy"],
        latex_delimiters=[
            {"left": left, "right": right, "display": display}
            for display, (left, right) in ((True, FORMULAS.display), (False, FORMULAS.inline))
        ],
    )


def _sliders(provider: ChatProvider) -> list[gr.Slider]:
    with gr.Row():
        return [
            gr.Slider(
                0,
                provider.slider_max_temperature,
                provider.temperature,
                step=0.05,
                label="temperature（0：不采样）",
            ),
            gr.Slider(0.01, 1, provider.top_p, step=0.01, label="top_p"),
            gr.Slider(
                1, provider.slider_max_new_tokens, provider.max_new_tokens, step=1, label="max_new_tokens"
            ),
        ]


def _labels(model: str, compared: str) -> list[dict[str, Any]]:
    """Updates of the chats: each names its model where there are two."""
    return [
        gr.update(label=model, show_label=bool(compared)),
        gr.update(label=compared, show_label=True, visible=bool(compared)),
    ]


def launch(page: gr.Blocks, host: str, port: int | None) -> str:
    """Serve in the background; returns the address. Raises OSError if the port is in use."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio requests its own URL at start
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        footer_links=[],
        theme=gr.themes.Default(font=list(FONTS), font_mono=["monospace"]),
        css=CSS,
        head=HEAD,
        max_file_size=MAX_UPLOAD,
        app_kwargs={"middleware": [Middleware(ContentSecurityMiddleware)]},
        prevent_thread_lock=True,
    )
    return str(address)


def run(
    provider: ChatProvider, initial_messages: list[Message], host: str, port: int | None, max_concurrency: int
) -> None:
    """Serve until Ctrl-C or SIGTERM, in the main thread. Raises OSError if the port is in use."""
    page = create_page(provider, initial_messages)
    page.queue(default_concurrency_limit=max_concurrency)
    address = launch(page, host, port)
    print(f"{provider.title}: {address} (Ctrl-C to stop)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C; otherwise Paddle reports a crash
    page.block_thread()
