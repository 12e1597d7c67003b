"""`paddle-glm estimate-memory`: the memory that a finetuning run needs on each rank."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, NoReturn

from paddle_glm.config import released_configs
from paddle_glm.errors import InputError

if TYPE_CHECKING:
    from paddle_glm.training.memory_estimate import MemoryEstimate, TrainingPlan

HELP = "estimate the memory of a finetuning run from its flags, without loading a model"
_GIB = 2**30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"estimate-memory: {message}")


def run_argv(argv: Sequence[str]) -> int:
    """Print the estimate; returns 0. Raises `InputError` for invalid flags and sizes."""
    args, flags = _parser().parse_known_args(list(argv))
    if args.gpu_memory is not None:
        _print_recipes(args, flags)
        return 0
    if args.command == "ptuning":
        flags = _finetune_flags_from_ptuning(args, flags)
    from paddle_glm.training.command_line import parse_finetune_args
    from paddle_glm.training.memory_estimate import estimate_training_memory, plan_from_flags, resolve_config

    recipe = [args.recipe] if args.recipe else []
    # Required by finetune, unused here.
    needed = ["--output_dir", "-"] + (["--model_name_or_path", args.model] if args.model else [])
    model_args, data_args, training_args = parse_finetune_args([*recipe, *needed, *flags])
    config = resolve_config(model_args.model_name_or_path)
    plan = plan_from_flags(model_args, data_args, training_args, config, args.processes)
    memory = estimate_training_memory(plan)
    if args.json:
        print(json.dumps({**asdict(memory), "total": memory.total}))
    else:
        print(_table(model_args.model_name_or_path, plan, memory))
    return 0


def _print_recipes(args: argparse.Namespace, flags: Sequence[str]) -> None:
    from paddle_glm.training.memory_recipes import find_recipes, usable_bytes

    if args.model is None or args.recipe or args.processes:
        raise InputError(
            "--gpu_memory: give --model, and lengths if they are not the default; "
            "--recipe and --processes are for runs whose flags are known"
        )
    if args.gpu_memory < 2:
        raise InputError(f"--gpu_memory {args.gpu_memory:g}: expected the GiB of a card: 24, 40, 80")
    recipes = find_recipes(args.command, args.model, args.gpu_memory, flags)
    if args.json:
        print(json.dumps([{**asdict(one), "total": one.memory and one.memory.total} for one in recipes]))
        return
    usable = usable_bytes(args.gpu_memory) / _GIB
    print(f"{args.model} on cards of {args.gpu_memory:g} GiB, of which tensors may take {usable:.1f}\n")
    print(f"{'':<13}{'cards':<12}{'GiB':>5}  flags of paddle-glm {args.command}")
    for (method, text), same in groupby(recipes, lambda one: (one.method, one.flags)):
        ones = list(same)
        cards = ", ".join(str(one.cards) for one in ones)
        totals = [one.memory.total for one in ones if one.memory is not None]
        total = f"{max(totals) / _GIB:.1f}" if totals else "-"
        print(f"{method:<13}{cards:<12}{total:>5}  {text or 'nothing fits'}")
    if args.command == "finetune":
        launcher = "python -m paddle.distributed.launch --gpus 0,1,... tools/finetune_generation.py"
        print(f"\nOn several cards: {launcher} FLAGS")


def _finetune_flags_from_ptuning(args: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """The flags of `finetune` that `paddle-glm ptuning --do_train` is translated to."""
    from paddle_glm.training.thudm_flags import parse_thudm_flags, to_finetune_argv

    if args.recipe:
        raise InputError("--recipe holds flags of paddle-glm finetune: leave out --command ptuning")
    on_gpu = parse_thudm_flags(flags).get("device") != ["cpu"]
    return to_finetune_argv([*flags, "--do_train"], on_gpu)


def _parser() -> _Parser:
    parser = _Parser(
        prog="paddle-glm estimate-memory",
        usage="%(prog)s [--model M] [--recipe FILE.yaml] [flags of paddle-glm finetune]",
        description=HELP + "; flags of paddle-glm finetune override the recipe",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", help=f"{', '.join(released_configs())}, or a model folder; default: that of the recipe"
    )
    parser.add_argument("--recipe", help="YAML or JSON file of arguments for paddle-glm finetune")
    parser.add_argument(
        "--command",
        default="finetune",
        choices=("finetune", "ptuning"),
        help="the command whose flags are given: paddle-glm finetune, or ptuning with THUDM's",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="number of ranks; default: tensor_parallel_degree x sharding_parallel_degree",
    )
    parser.add_argument(
        "--gpu_memory",
        type=float,
        metavar="GIB",
        help="print flags of runs that fit cards of so much memory: 24, 40, 80 (one to eight cards)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object with sizes in bytes")
    return parser


def _table(model: str, plan: "TrainingPlan", memory: "MemoryEstimate") -> str:
    method = "LoRA" if plan.lora else "P-Tuning v2" if plan.prefix_tuning else "all weights"
    weights = plan.dtype
    if plan.config.quantization_bit:
        weights = f"{plan.config.quantization_bit} bits"
    computed = "half precision" if plan.half else "float32"
    sharing = f", sharding stage {plan.stage}" if plan.stage and plan.data_degree > 1 else ""
    share = 100 * memory.trainable / memory.parameters
    lines = [
        f"{model}, {method}: weights in {weights}, products in {computed}",
        f"{plan.tensor_degree} (tensor) x {plan.data_degree} (data) processes{sharing}; "
        f"batches of {plan.batch_size} x {plan.seq_length} tokens{', recomputed' if plan.recompute else ''}",
        f"{memory.trainable:,} of {memory.parameters:,} parameters are trained ({share:.2f} %)",
        "",
        "GiB on each process",
    ]
    parts = {
        name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "activations", "total")
    }
    lines += [f"  {name:<12}{size / _GIB:>8.2f}" for name, size in parts.items()]
    if memory.host:
        lines.append(f"and in the host's memory{memory.host / _GIB:>8.2f}")
    return "\n".join(lines)
