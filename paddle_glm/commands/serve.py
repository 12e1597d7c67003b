"""`paddle-glm serve`: an HTTP server for a model folder or an exported folder."""

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from paddle_glm.commands._engine_arguments import (
    add_adapter_arguments,
    add_engine_arguments,
    add_origin_argument,
    open_engine_from_args,
    require_extra,
    served_name,
)
from paddle_glm.commands._model_arguments import positive_int
from paddle_glm.commands._sampling_arguments import (
    BEAM_SEARCH_FIELDS,
    add_sampling_arguments,
    sampling_params,
)
from paddle_glm.errors import InputError
from paddle_glm.generation.params import GenerationParams
from paddle_glm.serving.batching.ranks import run_on_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from paddle_glm.auto.engine import Engine

HELP = "serve a model over HTTP: OpenAI's API and that of THUDM's api.py"
SERVER_KEY_VARIABLE = "PADDLE_GLM_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    add_adapter_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 for any free one")
    parser.add_argument(
        "--api_key", help=f"key that clients must send; {SERVER_KEY_VARIABLE} keeps it out of process lists"
    )
    add_origin_argument(parser)
    parser.add_argument("--served_model_name", help="model name for clients (default: the folder's)")
    parser.add_argument(
        "--max_batch_size", type=positive_int, default=16, help="maximum requests generated in one batch"
    )
    parser.add_argument(
        "--max_waiting",
        type=positive_int,
        default=64,
        help="maximum requests in the queue; more are refused (429)",
    )
    parser.add_argument(
        "--prefill_chunk",
        type=lambda text: None if text == "auto" else positive_int(text),
        default="auto",
        metavar="TOKENS",
        help="tokens of a long prompt that are read between two tokens of running answers; auto: as many as "
        "take 1.5 times as long as a token of theirs, measured while the server runs",
    )
    parser.add_argument(
        "--cache_memory",
        type=float,
        metavar="GB",
        help="memory for keys and values, in each process (default: half of what is free after loading); "
        "requests wait, or are computed again, where it is short",
    )
    parser.add_argument(
        "--prefix_memory",
        type=float,
        metavar="GB",
        help="how much of it ended requests may keep, for prompts that begin with the same tokens "
        "(default: half; 0: none)",
    )
    parser.add_argument(
        "--max_request_bytes", type=positive_int, default=1 << 20, help="maximum bytes of a request body"
    )
    parser.add_argument(
        "--shutdown_timeout",
        type=positive_int,
        default=30,
        help="seconds to finish running answers at shutdown",
    )
    add_sampling_arguments(parser, GenerationParams(), exclude=BEAM_SEARCH_FIELDS)


def run(args: argparse.Namespace) -> None:
    """Serve; under the launcher from rank 0, over all ranks."""
    if args.model_name_or_path is None:
        raise InputError("give --model_name_or_path FOLDER")
    if args.prefix_memory is not None and not args.prefix_memory >= 0:
        raise InputError(f"--prefix_memory {args.prefix_memory}: expected gigabytes, 0 for none")
    if args.cache_memory is not None and not args.cache_memory > 0:
        raise InputError(f"--cache_memory {args.cache_memory}: expected gigabytes, more than 0")
    sampling_params(args, GenerationParams())  # invalid values are reported before a model is loaded
    run_on_ranks(partial(open_engine_from_args, args), partial(_serve, args))


def _serve(args: argparse.Namespace, open_engine: "Callable[[], Engine]") -> None:
    with require_extra("serve"):
        from paddle_glm.serving.http.app import create_app
        from paddle_glm.serving.http.http_server import serve
    from paddle_glm.serving.batching.scheduler import Scheduler
    from paddle_glm.serving.http.address import bind, is_loopback

    key = args.api_key or os.environ.get(SERVER_KEY_VARIABLE) or None
    name = served_name(args)
    listener = bind(args.host, args.port)  # a port that is taken is reported before a model is loaded
    scheduler = Scheduler(
        open_engine,
        args.max_batch_size,
        args.max_waiting,
        args.prefill_chunk,
        *(None if size is None else int(size * 1e9) for size in (args.cache_memory, args.prefix_memory)),
    )
    params = sampling_params(args, scheduler.engine.params)
    local = is_loopback(listener)
    app = create_app(scheduler, name, params, key, args.max_request_bytes, args.allow_origin, local)
    serve(app, listener, name, without_api_key=key is None, shutdown_seconds=args.shutdown_timeout)
