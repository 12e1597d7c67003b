"""`paddle-glm chat`: chat in the terminal with a local model or a server's."""

import argparse
from typing import TYPE_CHECKING

from paddle_glm.commands._chat_loop import ChatLoop
from paddle_glm.commands._engine_arguments import (
    add_engine_arguments,
    add_remote_arguments,
    check_local_or_remote,
    open_engine_from_args,
    open_remote_session,
)
from paddle_glm.commands._sampling_arguments import (
    add_sampling_arguments,
    check_sampling_flags,
    sampling_params,
)
from paddle_glm.generation.params import GenerationParams
from paddle_glm.models.family import family_of

if TYPE_CHECKING:
    from paddle_glm.generation import Session

HELP = "chat in the terminal with a model folder, an exported folder or a server (--api_base)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_arguments(parser)
    add_remote_arguments(parser)
    parser.add_argument("--system", help="system message of the conversation")
    add_sampling_arguments(parser, GenerationParams())


def run(args: argparse.Namespace) -> None:
    check_local_or_remote(args, (add_engine_arguments,))
    session, title = _open_session(args)
    print(f"欢迎使用 {title} 模型，输入内容即可进行对话，clear 清空对话历史，stop 终止程序，:help 帮助")
    ChatLoop(session, [{"role": "system", "content": args.system}] if args.system else []).run()


def _open_session(args: argparse.Namespace) -> "tuple[Session, str]":
    """The session with the model or the server, and its display name."""
    if args.api_base is not None:
        remote = open_remote_session(args)
        return remote, remote.model
    from paddle_glm.generation import ChatSession

    engine = open_engine_from_args(args)
    params = sampling_params(args, engine.params)
    check_sampling_flags(args, params)
    session = ChatSession(engine.backend, engine.tokenizer, params)
    return session, family_of(engine.backend.config).title
