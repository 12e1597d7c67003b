"""`paddle-glm kernels`: builds the native CPU kernels, or says why they are missing."""

import argparse

HELP = "build the native CPU kernels ahead of their first use, and show what they will use"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rebuild", action="store_true", help="build again, also after a failure")
    parser.add_argument(
        "--prebuilt",
        action="store_true",
        help="build into the package's folder: a wheel that is made of it then carries the library, for "
        "machines without a compiler",
    )


def run(args: argparse.Namespace) -> None:
    from paddle_glm.errors import InputError
    from paddle_glm.hardware import num_threads
    from paddle_glm.kernels.build import (
        BuildError,
        build,
        built_library,
        cached_path,
        find_compiler,
        prebuilt_path,
    )

    try:
        if args.prebuilt:
            build(prebuilt_path(), find_compiler())
        elif args.rebuild:
            cached_path().with_name("error.txt").unlink(missing_ok=True)
            build(cached_path(), find_compiler())
        path = built_library(print)
    except BuildError as error:
        raise InputError(f"the native CPU kernels cannot be built: {error}") from error

    from paddle_glm.kernels.library import isa

    print(f"{path}\ninstruction set {isa()}, {num_threads()} threads")
