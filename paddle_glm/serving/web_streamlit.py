"""The web page on streamlit, which runs `show` anew at every click."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from paddle_glm.chat import Message
from paddle_glm.errors import InputError
from paddle_glm.generation.response import visible_text
from paddle_glm.serving.scheduler import Busy, Closed
from paddle_glm.serving.source import Source

SCRIPT = Path(__file__).with_name("streamlit_script.py")
_given: tuple[Source, list[Message]] | None = None


def run(source: Source, beginning: list[Message], host: str, port: int) -> None:
    """Serve the page until Ctrl-C."""
    from streamlit.web import cli

    global _given
    _given = source, beginning
    flags = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    cli.main(["run", str(SCRIPT), *(f"--{name}={value}" for name, value in flags.items())])


def show_given() -> None:
    """The page of `run`, in its process."""
    assert _given is not None, "streamlit_script.py runs below web_streamlit.run"
    show(*_given)


def is_running() -> bool:
    """Whether streamlit runs this process's script."""
    return st.runtime.exists()


def show_opened(open_source: Callable[[], Source], key: str, beginning: list[Message]) -> None:
    """The page of a script that streamlit runs itself; what is opened is kept for all runs of that `key`."""

    @st.cache_resource
    def opened(key: str) -> Source:
        return open_source()

    try:
        source = opened(key)
    except InputError as error:
        st.error(str(error))
    else:
        show(source, beginning)


def show(source: Source, beginning: list[Message]) -> None:
    """Draw the page: the conversation so far, and the answer to what was just asked."""
    st.set_page_config(page_title=source.title)
    st.title(source.title)
    slider = st.sidebar.slider
    values = {
        "temperature": slider(
            "temperature（0：不采样）", 0.0, source.most_temperature, source.temperature, 0.05
        ),
        "top_p": slider("top_p", 0.01, 1.0, source.top_p, 0.01),
        "max_new_tokens": slider("max_new_tokens", 1, source.most_new_tokens, source.max_new_tokens),
    }
    if st.sidebar.button("清空对话"):
        st.session_state.pop("messages", None)
    messages: list[Message] = st.session_state.setdefault("messages", list(beginning))
    for message in messages:
        if message["role"] in ("user", "assistant"):
            st.chat_message(message["role"]).markdown(visible_text([message]))
    if question := st.chat_input("输入内容，回车发送"):
        st.chat_message("user").markdown(question)
        asked: list[Message] = [*messages, {"role": "user", "content": question}]
        try:
            session = source.open(values)
            with st.chat_message("assistant"):
                st.write_stream(session.stream(asked))
        except (InputError, Busy, Closed) as error:  # that round is left out
            st.error(str(error))
        else:
            assert session.reply is not None
            st.session_state["messages"] = [*asked, *session.reply.messages]
