"""`paddle-glm chat`: a conversation in the terminal, with a model folder or an exported one."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from paddle_glm.backends import BACKENDS, EngineOptions
from paddle_glm.chat import Message
from paddle_glm.commands._generating import add_adapter_arguments
from paddle_glm.commands._sampling import add_sampling_arguments, sampling_params
from paddle_glm.config import DTYPES
from paddle_glm.errors import InputError
from paddle_glm.families import family_names, family_of
from paddle_glm.generation.params import GenerationParams

if TYPE_CHECKING:
    from paddle_glm.generation import ChatSession

HELP = "talk with a model folder or an exported one in the terminal"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model_name_or_path",
        "--model_path",
        required=True,
        help="hub folder, merged folder, folder of shards, or exported folder",
    )
    parser.add_argument("--backend", choices=list(BACKENDS), help="default: what fits the folder")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="where to compute")
    parser.add_argument("--device_id", type=int, default=0, help="which GPU")
    parser.add_argument("--cpu_threads", type=int, default=0, help="0 takes all that may be used")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of a model folder's weights")
    parser.add_argument(
        "--family", choices=family_names(), help="what the model is, where its files do not say"
    )
    add_adapter_arguments(parser)
    parser.add_argument("--system", help="a message in front of the conversation that sets its tone")
    add_sampling_arguments(parser, GenerationParams())


def run(args: argparse.Namespace) -> None:
    from paddle_glm.backends.folder import open_engine
    from paddle_glm.generation import ChatSession
    from paddle_glm.peft.folders import check_is_model

    options = EngineOptions(
        args.device,
        args.device_id,
        args.cpu_threads,
        args.dtype,
        args.family,
        ptuning_checkpoint=args.ptuning_checkpoint,
        lora_path=args.lora_path,
    )
    check_is_model(args.model_name_or_path)
    engine = open_engine(args.model_name_or_path, options, args.backend)
    session = ChatSession(engine.backend, engine.tokenizer, sampling_params(args, engine.params))
    title = family_of(engine.backend.config).title
    print(f"欢迎使用 {title} 模型，输入内容即可进行对话，clear 清空对话历史，stop 终止程序")
    converse(session, [{"role": "system", "content": args.system}] if args.system else [])


def converse(session: "ChatSession", beginning: list[Message]) -> None:
    """Read questions until `stop` or the end of input; `clear` goes back to `beginning`.

    Ctrl-C ends an answer and leaves that round out of the conversation.
    """
    messages = list(beginning)
    for question in _questions():
        if question == "clear":
            messages = list(beginning)
            print("对话历史已清空")
            continue
        asked: list[Message] = [*messages, {"role": "user", "content": question}]
        print("\nChatGLM：", end="", flush=True)
        try:
            for piece in session.stream(asked):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print(" ……")
        except InputError as error:  # a conversation that has become too long, most likely
            print(f"{error}（输入 clear 清空对话历史）")
        else:
            print()
            assert session.reply is not None
            messages = [*asked, *session.reply.messages]


def _questions() -> Iterator[str]:
    while True:
        try:
            question = input("\n用户：").strip()
        except EOFError:
            print()
            return
        if question == "stop":
            return
        if question:
            yield question
