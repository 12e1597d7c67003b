"""`paddle-glm ptuning`: takes the flags of THUDM's ptuning/main.py, as train.sh and evaluate.sh give them."""

from collections.abc import Sequence

from paddle_glm.generation.params import GenerationParams

HELP = "run the flags of THUDM's ptuning scripts (main.py of train.sh and evaluate.sh)"
_USAGE = "paddle-glm ptuning --do_train|--do_eval|--do_predict FLAGS"
_DESCRIPTION = f"""{HELP}: the flags of `paddle-glm finetune` with main.py's defaults.
--do_train trains, --do_eval evaluates on --validation_file at the end, --do_predict answers --test_file
and writes generated_predictions.txt into --output_dir. On a GPU activations are recomputed, and a model
that is frozen beside a prefix or LoRA is held in float16 (--bf16: bfloat16; --fp16 False: float32)."""

# main.py's sampling of answers.
THUDM_SAMPLING = GenerationParams(do_sample=True, top_p=0.7, temperature=0.95)


def run_argv(argv: Sequence[str]) -> int:
    """Train, evaluate, predict, as the flags say; returns 0. Raises `InputError` for flags of no use."""
    from paddle_glm.training.thudm_flags import format_help, parse_thudm_flags, to_finetune_argv

    if not argv or argv[0] in ("-h", "--help"):
        print(format_help(_USAGE, _DESCRIPTION))
        raise SystemExit(0)
    from paddle_glm.commands.finetune import train
    from paddle_glm.hardware import resolve_device
    from paddle_glm.parallel.shutdown import exit_all_ranks

    (device,) = parse_thudm_flags(argv).get("device") or ["auto"]
    train(to_finetune_argv(argv, on_gpu=resolve_device(device) != "cpu"), THUDM_SAMPLING)
    exit_all_ranks()
    return 0
