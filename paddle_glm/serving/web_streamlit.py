"""Chat page with streamlit, which reruns `show` at every interaction."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError
from paddle_glm.generation.response_parser import visible_text
from paddle_glm.serving.chat_provider import ChatProvider
from paddle_glm.serving.generation_request import QueueFullError, SchedulerClosedError

SCRIPT = Path(__file__).with_name("streamlit_script.py")
_page_arguments: tuple[ChatProvider, list[Message]] | None = None


def run(provider: ChatProvider, initial_messages: list[Message], host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    from streamlit.web import cli

    global _page_arguments
    _page_arguments = provider, initial_messages
    flags = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    cli.main(["run", str(SCRIPT), *(f"--{name}={value}" for name, value in flags.items())])


def show_configured_page() -> None:
    """Show the page configured by `run`, in its process."""
    assert _page_arguments is not None, "streamlit_script.py is started by web_streamlit.run"
    show(*_page_arguments)


def is_running() -> bool:
    """Whether this process is a script run by streamlit."""
    return st.runtime.exists()


def show_cached_page(
    open_provider: Callable[[], ChatProvider], key: str, initial_messages: list[Message]
) -> None:
    """Show the page of a script run by `streamlit run`; the provider is cached per `key`."""

    @st.cache_resource
    def cached_provider(key: str) -> ChatProvider:
        return open_provider()

    try:
        provider = cached_provider(key)
    except InputError as error:
        st.error(str(error))
    else:
        show(provider, initial_messages)


def show(provider: ChatProvider, initial_messages: list[Message]) -> None:
    """Draw the page: the conversation so far and the answer to a new question."""
    st.set_page_config(page_title=provider.title)
    st.title(provider.title)
    slider = st.sidebar.slider
    values = {
        "temperature": slider(
            "temperature（0：不采样）", 0.0, provider.slider_max_temperature, provider.temperature, 0.05
        ),
        "top_p": slider("top_p", 0.01, 1.0, provider.top_p, 0.01),
        "max_new_tokens": slider(
            "max_new_tokens", 1, provider.slider_max_new_tokens, provider.max_new_tokens
        ),
    }
    if st.sidebar.button("清空对话"):
        st.session_state.pop("messages", None)
    messages: list[Message] = st.session_state.setdefault("messages", list(initial_messages))
    for message in messages:
        if message["role"] in ("user", "assistant"):
            st.chat_message(message["role"]).markdown(visible_text([message]))
    if question := st.chat_input("输入内容，回车发送"):
        st.chat_message("user").markdown(question)
        asked: list[Message] = [*messages, {"role": "user", "content": question}]
        try:
            session = provider.open(values, provider.models[0])
            with st.chat_message("assistant"):
                st.write_stream(session.stream(asked))
        except (InputError, QueueFullError, SchedulerClosedError) as error:  # the failed round is not kept
            st.error(str(error))
        else:
            assert session.reply is not None
            st.session_state["messages"] = [*asked, *session.reply.messages]
