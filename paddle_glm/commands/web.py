"""`paddle-glm web`: a chat page in the browser, for a local model or a server's."""

import argparse
from contextlib import closing
from typing import TYPE_CHECKING

from paddle_glm.chat_template import Message
from paddle_glm.commands._engine_arguments import (
    add_adapter_arguments,
    add_engine_arguments,
    add_origin_argument,
    add_remote_arguments,
    check_local_or_remote,
    open_engine_from_args,
    open_remote_session,
    require_extra,
)
from paddle_glm.commands._model_arguments import positive_int
from paddle_glm.commands._sampling_arguments import (
    BEAM_SEARCH_FIELDS,
    add_sampling_arguments,
    sampling_params,
)
from paddle_glm.generation.params import GenerationParams

if TYPE_CHECKING:
    from starlette.middleware import Middleware

    from paddle_glm.serving.pages.chat_provider import ChatProvider

HELP = "chat in the browser with a model folder, an exported folder or a server (--api_base)"
STREAMLIT_PORT = 8501  # gradio takes the first free port from 7860


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    add_adapter_arguments(parser)
    add_remote_arguments(parser)
    parser.add_argument(
        "--ui", default="gradio", choices=("gradio", "streamlit"), help="library that serves the page"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, help="port to listen on (default: 7860 gradio, 8501 streamlit)")
    add_origin_argument(parser)
    parser.add_argument(
        "--max_batch_size", type=positive_int, default=4, help="maximum answers generated in one batch"
    )
    parser.add_argument("--system", help="system message of every conversation")
    add_sampling_arguments(parser, GenerationParams(), exclude=BEAM_SEARCH_FIELDS)


def run(args: argparse.Namespace) -> None:
    check_local_or_remote(args, (add_engine_arguments, add_adapter_arguments))
    initial_messages: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    draw = _run_gradio if args.ui == "gradio" else _run_streamlit
    draw(args, initial_messages)


def _run_gradio(args: argparse.Namespace, initial_messages: list[Message]) -> None:
    with require_extra("web"):
        from paddle_glm.serving.pages import web_gradio
    access = _access(args, args.port or 0)
    with closing(open_provider(args)) as provider:
        web_gradio.run(provider, initial_messages, args.host, args.port, access)


def _run_streamlit(args: argparse.Namespace, initial_messages: list[Message]) -> None:
    with require_extra("web"):
        from paddle_glm.serving.pages import web_streamlit

    if web_streamlit.is_running():  # `streamlit run tools/web_demo2.py -- FLAGS`, at every click
        web_streamlit.show_cached_page(lambda: open_provider(args), str(args), initial_messages)
        return
    port = STREAMLIT_PORT if args.port is None else args.port
    access = _access(args, port)
    with closing(open_provider(args)) as provider:
        web_streamlit.run(provider, initial_messages, args.host, port, access)


def _access(args: argparse.Namespace, port: int) -> "Middleware":
    """What refuses pages of other origins. A port in use is an `InputError` before a model is loaded."""
    from starlette.middleware import Middleware

    from paddle_glm.serving.http.address import bind, is_loopback
    from paddle_glm.serving.http.middleware import OriginMiddleware

    with closing(bind(args.host, port)) as bound:
        return Middleware(OriginMiddleware, allowed=args.allow_origin, local=is_loopback(bound))


def open_provider(args: argparse.Namespace) -> "ChatProvider":
    """The model or the server that the flags select; raises `InputError` if it cannot be opened."""
    with require_extra("serve"):
        from paddle_glm.serving.pages.chat_provider import local_provider, remote_provider
    from paddle_glm.serving.batching.scheduler import Scheduler

    params = sampling_params(args, GenerationParams())  # invalid values are reported first
    if args.api_base is not None:
        return remote_provider(open_remote_session(args), params)
    scheduler = Scheduler(lambda: open_engine_from_args(args), args.max_batch_size)
    return local_provider(scheduler, sampling_params(args, scheduler.engine.params), args.model_name)
