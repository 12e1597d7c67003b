"""Chat page with gradio."""

import logging
import signal
from functools import partial
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from paddle_glm.chat_template import Message
from paddle_glm.serving import conversation
from paddle_glm.serving.http.middleware import ContentSecurityMiddleware
from paddle_glm.serving.pages.chat_provider import ChatProvider
from paddle_glm.serving.pages.gradio_page import FORMULAS, Page, Visit

# System fonts: gradio's default theme downloads fonts from a CDN.
FONTS = ("system-ui", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif")
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
        visit = gr.State(Visit([list(initial_messages)]))
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
        shown = [*chats, box, notice, drop]
        settings = [model, compared, system, *sliders]
        private: dict[str, Any] = {"api_visibility": "private"}
        # None has `cancels`: it would close the stream of events in which the page gets all outputs.
        gr.on([send.click, box.submit], page.ask, [visit, box, *settings], shown, api_name="chat")
        drop.click(page.ask_without_oldest_rounds, [visit, box, *settings], shown, **private)
        again.click(page.ask_again, [visit, *settings], shown, **private)
        stop.click(page.stop, visit, **private)
        edit.click(partial(page.take_back, edits=True), visit, shown, **private)
        delete.click(partial(page.take_back, edits=False), visit, shown, **private)
        load.upload(page.load, [visit, compared, load], [*shown, system], **private)
        gr.on([model.change, compared.change], _labels, [model, compared], chats, **private)
        # The chats have a button of their own for it too.
        gr.on(
            [clear.click, *(chat.clear for chat in chats)],
            page.clear,
            [visit, compared],
            shown,
            api_name="clear",
        )
        texts = gr.JSON(visible="hidden")
        save.click(
            lambda visit: list(map(conversation.to_json, visit.columns)), visit, texts, **private
        ).then(None, texts, None, js=SAVE)
    blocks.queue(default_concurrency_limit=None)  # models have queues of their own
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


def launch(page: gr.Blocks, host: str, port: int | None, *middleware: Middleware) -> str:
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
        app_kwargs={"middleware": [*middleware, Middleware(ContentSecurityMiddleware)]},
        prevent_thread_lock=True,
    )
    return str(address)


def run(
    provider: ChatProvider, initial_messages: list[Message], host: str, port: int | None, access: Middleware
) -> None:
    """Serve until Ctrl-C or SIGTERM, in the main thread. Raises OSError if the port is in use.

    access: decides which requests are served.
    """
    address = launch(page := create_page(provider, initial_messages), host, port, access)
    print(f"{provider.title}: {address} (Ctrl-C to stop)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C; otherwise Paddle reports a crash
    page.block_thread()
