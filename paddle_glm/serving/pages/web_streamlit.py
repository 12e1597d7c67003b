"""Chat page with streamlit: the server, and what `streamlit run` shows."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError
from paddle_glm.serving.pages.chat_provider import ChatProvider
from paddle_glm.serving.pages.streamlit_page import show

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
        "server.maxUploadSize": 10,  # MB
        "client.toolbarMode": "minimal",
        "client.showErrorLinks": "false",
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
