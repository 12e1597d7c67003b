"""Chat page with gradio."""

import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

# Set before the import, which otherwise sends telemetry.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.serving.chat_provider import ChatProvider
from paddle_glm.serving.generation_request import QueueFullError, SchedulerClosedError

# System fonts: gradio's default theme downloads fonts from a CDN.
FONTS = ("system-ui", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif")


def create_page(provider: ChatProvider, initial_messages: list[Message]) -> gr.Blocks:
    """The page; every conversation starts with `initial_messages`."""

    def answer(
        question: str, messages: list[Message], temperature: float, top_p: float, max_new_tokens: int
    ) -> Iterator[tuple[list[dict[str, Any]], list[Message], str]]:
        """Yield (shown messages, conversation, text box content) while the answer grows."""
        before = messages or initial_messages
        if not question.strip():
            yield to_gradio_messages(before), before, ""
            return
        asked: list[Message] = [*before, {"role": "user", "content": question}]
        text = ""
        try:
            session = provider.open(
                {"temperature": temperature, "top_p": top_p, "max_new_tokens": int(max_new_tokens)},
                provider.models[0],
            )
            for piece in session.stream(asked):
                text += piece
                # Kept if the visitor stops the answer.
                so_far: list[Message] = [*asked, {"role": "assistant", "content": text}]
                yield to_gradio_messages(so_far), so_far, ""
        except (InputError, QueueFullError, SchedulerClosedError) as error:
            yield to_gradio_messages(before), before, question
            raise gr.Error(str(error)) from error
        assert session.reply is not None
        whole = [*asked, *session.reply.messages]
        yield to_gradio_messages(whole), whole, ""

    page: gr.Blocks
    with gr.Blocks(title=provider.title, analytics_enabled=False) as page:
        gr.Markdown(f"# {provider.title}")
        messages = gr.State(initial_messages)
        chat = gr.Chatbot(height=520, show_label=False)
        question = gr.Textbox(placeholder="输入内容，回车发送", show_label=False, autofocus=True)
        with gr.Row():
            send = gr.Button("发送", variant="primary")
            stop = gr.Button("停止")
            clear = gr.Button("清空对话")
        with gr.Row():
            sliders = [
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
        asking = gr.on(
            [send.click, question.submit],
            answer,
            [question, messages, *sliders],
            [chat, messages, question],
            api_name="chat",
        )
        stop.click(None, cancels=asking, api_visibility="private")
        clear.click(
            lambda: (to_gradio_messages(initial_messages), initial_messages),
            None,
            [chat, messages],
            cancels=asking,
            api_name="clear",
        )
    return page


def to_gradio_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """The conversation in gradio's format, without system messages."""
    return [
        {"role": message["role"], "content": visible_text([message])}
        for message in messages
        if message["role"] in ("user", "assistant")
    ]


def run(
    provider: ChatProvider, initial_messages: list[Message], host: str, port: int | None, max_concurrency: int
) -> None:
    """Serve until Ctrl-C or SIGTERM, in the main thread. Raises OSError if the port is in use."""
    page = create_page(provider, initial_messages)
    page.queue(default_concurrency_limit=max_concurrency)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio requests its own URL at start
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        quiet=True,
        footer_links=[],
        theme=gr.themes.Default(font=list(FONTS), font_mono=["monospace"]),
        prevent_thread_lock=True,
    )
    print(f"{provider.title}: {address} (Ctrl-C to stop)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C; otherwise Paddle reports a crash
    page.block_thread()
