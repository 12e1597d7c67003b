"""Chat page with streamlit: the server, and what `streamlit run` shows."""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from paddle_glm.chat_template import Message
from paddle_glm.errors import InputError
from paddle_glm.serving.http.middleware import ContentSecurityMiddleware
from paddle_glm.serving.pages.chat_provider import ChatProvider
from paddle_glm.serving.pages.streamlit_page import show

SCRIPT = Path(__file__).with_name("streamlit_script.py")
_page_arguments: tuple[ChatProvider, list[Message]] | None = None


def run(
    provider: ChatProvider, initial_messages: list[Message], host: str, port: int, access: Middleware
) -> None:
    """Serve until Ctrl-C or SIGTERM, in the main thread. access: decides which requests are served."""
    global _page_arguments
    _page_arguments = provider, initial_messages
    sys.argv = [str(SCRIPT)]  # whose folder streamlit puts into the path
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C; otherwise Paddle reports a crash
    app = st.App(SCRIPT, middleware=[access, Middleware(ContentSecurityMiddleware)])
    with suppress(KeyboardInterrupt):
        app.run(
            config={
                "server.address": host,
                "server.port": port,
                "server.headless": True,
                "server.fileWatcherType": "none",
                "browser.gatherUsageStats": False,
                "server.maxUploadSize": 10,  # MB
                "client.toolbarMode": "minimal",
                "client.showErrorLinks": False,
            }
        )


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
