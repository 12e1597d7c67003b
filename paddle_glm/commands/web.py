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
    if args.ui == "gradio":
        with packages_of("web"):
            from paddle_glm.serving import web_gradio

        with closing(open_source(args)) as source:
            web_gradio.run(source, beginning, args.host, args.port, args.max_batch_size)
        return
    with packages_of("web"):
        from paddle_glm.serving import web_streamlit
    if web_streamlit.is_running():  # `streamlit run tools/web_demo2.py -- FLAGS`, at every click
        web_streamlit.show_opened(lambda: open_source(args), str(args), beginning)
        return
    with closing(open_source(args)) as source:
        web_streamlit.run(source, beginning, args.host, args.port)


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
