"""`paddle-glm ptuning`: takes the flags of THUDM's ptuning/main.py, as train.sh and evaluate.sh give them."""

from collections.abc import Sequence

from paddle_glm.generation.params import GenerationParams

HELP = "run the flags of THUDM's ptuning scripts (main.py of train.sh and evaluate.sh)"

USAGE = f"""usage: paddle-glm ptuning --do_train|--do_eval|--do_predict FLAGS

{HELP}. They go to `paddle-glm finetune`, with main.py's defaults: --do_train
trains, --do_eval measures --validation_file, --do_predict answers --test_file and writes
generated_predictions.txt into --output_dir. Flags that have no effect are errors, but for
those that the scripts themselves give. On a GPU the model beside a prefix or LoRA is held in
float16 (--bf16: bfloat16; --fp16 False: float32) and activations are recomputed."""

# How main.py draws its answers.
THUDM_SAMPLING = GenerationParams(do_sample=True, top_p=0.7, temperature=0.95)


def run_argv(argv: Sequence[str]) -> int:
    """Train, evaluate, predict, as the flags say; returns 0. Raises `InputError` for flags of no use."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    from paddle_glm.commands.finetune import train
    from paddle_glm.hardware import resolve_device
    from paddle_glm.parallel.shutdown import exit_all_ranks
    from paddle_glm.training.thudm_flags import parse_thudm_flags, to_finetune_argv

    (device,) = parse_thudm_flags(argv).get("device") or ["auto"]
    train(to_finetune_argv(argv, on_gpu=resolve_device(device) != "cpu"), THUDM_SAMPLING)
    exit_all_ranks()
    return 0
