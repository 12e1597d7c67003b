"""`paddle-glm web`: a chat page in the browser, over a folder's model or a server's."""

import argparse
from contextlib import closing
from typing import TYPE_CHECKING

from paddle_glm.chat import Message
from paddle_glm.commands._generating import positive
from paddle_glm.commands._opening import (
    add_engine_arguments,
    add_remote_arguments,
    check_one_source,
    open_engine_of,
    open_remote,
    packages_of,
)
from paddle_glm.commands._sampling import add_sampling_arguments, sampling_params
from paddle_glm.generation.params import GenerationParams

if TYPE_CHECKING:
    from paddle_glm.serving.source import Source

HELP = "a chat page in the browser, with a model folder, an exported one, or a server"
STREAMLIT_PORT = 8501  # gradio takes the first free one from 7860 on
# Requests that run together take no beams.
_NO_BEAMS = ("num_beams", "length_penalty", "early_stopping")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    add_remote_arguments(parser)
    parser.add_argument("--ui", default="gradio", choices=("gradio", "streamlit"), help="what draws the page")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all of them")
    parser.add_argument("--port", type=int, help="port to listen on (default: 7860 gradio, 8501 streamlit)")
    parser.add_argument(
        "--max_batch_size", type=positive, default=4, help="visitors that are answered together"
    )
    parser.add_argument("--system", help="a message in front of every conversation that sets its tone")
    add_sampling_arguments(parser, GenerationParams(), leave_out=_NO_BEAMS)


def run(args: argparse.Namespace) -> None:
    check_one_source(args, (add_engine_arguments,))
    beginning: list[Message] = [{"role": "system", "content": args.system}] if args.system else []
    draw = _on_gradio if args.ui == "gradio" else _on_streamlit
    draw(args, beginning)


def _on_gradio(args: argparse.Namespace, beginning: list[Message]) -> None:
    with packages_of("web"):
        from paddle_glm.serving import web_gradio
    from paddle_glm.serving.address import bind

    bind(args.host, args.port or 0).close()  # a port that is taken is said before a model is loaded
    with closing(open_source(args)) as source:
        web_gradio.run(source, beginning, args.host, args.port, args.max_batch_size)


def _on_streamlit(args: argparse.Namespace, beginning: list[Message]) -> None:
    with packages_of("web"):
        from paddle_glm.serving import web_streamlit
    from paddle_glm.serving.address import bind

    if web_streamlit.is_running():  # `streamlit run tools/web_demo2.py -- FLAGS`, at every click
        web_streamlit.show_opened(lambda: open_source(args), str(args), beginning)
        return
    port = STREAMLIT_PORT if args.port is None else args.port
    bind(args.host, port).close()
    with closing(open_source(args)) as source:
        web_streamlit.run(source, beginning, args.host, port)


def open_source(args: argparse.Namespace) -> "Source":
    """The model or the server that the flags name; raises `InputError` where it cannot be had."""
    with packages_of("serve"):
        from paddle_glm.serving.source import local_source, remote_source
    from paddle_glm.serving.scheduler import Scheduler

    params = sampling_params(args, GenerationParams())  # values that cannot work are said first
    if args.api_base is not None:
        return remote_source(open_remote(args), params)
    scheduler = Scheduler(lambda: open_engine_of(args), args.max_batch_size)
    return local_source(scheduler, sampling_params(args, scheduler.engine.params))
