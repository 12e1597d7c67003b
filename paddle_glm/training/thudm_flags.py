"""The flags of THUDM's ptuning/main.py, as train.sh and evaluate.sh give them, translated to `finetune`'s."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from paddle_glm.errors import InputError
from paddle_glm.training.command_line import build_parser, check_flag_name

logger = logging.getLogger(__name__)

Flags = dict[str, list[str]]

# main.py's defaults where finetune has others: always, with --do_train, and with --do_eval or --do_predict.
_DEFAULT_LENGTHS: Flags = {"src_length": ["1024"], "tgt_length": ["128"]}
_DEFAULT_TRAIN_BATCH_SIZE: Flags = {"per_device_train_batch_size": ["8"]}
_DEFAULT_EVAL_BATCH_SIZE: Flags = {"per_device_eval_batch_size": ["8"]}
_DEFAULT_EPOCHS: Flags = {"num_train_epochs": ["3"]}
_DEFAULT_EVALUATION: Flags = {"evaluation_strategy": ["no"]}  # at the end only
# Accepted because the scripts give them: rows are neither cached nor tokenized in other processes.
INEFFECTIVE_FLAGS = ("overwrite_cache", "preprocessing_num_workers")
_PATH_FLAGS = (
    *("train_file", "validation_file", "test_file", "model_name_or_path", "ptuning_checkpoint"),
    *("lora_path", "output_dir"),
)
_ADAPTER_FLAGS = ("pre_seq_len", "prefix_tuning", "ptuning_checkpoint", "lora", "lora_path")


def format_help(usage: str, description: str) -> str:
    """The text of `ptuning --help`: finetune's flags, with main.py's defaults."""
    defaults = (
        *(_DEFAULT_LENGTHS, _DEFAULT_TRAIN_BATCH_SIZE, _DEFAULT_EVAL_BATCH_SIZE),
        *(_DEFAULT_EPOCHS, _DEFAULT_EVALUATION),
    )
    values = {name: value for flags in defaults for name, (value,) in flags.items()}
    parser = build_parser("paddle-glm ptuning", usage, description, values)
    section = parser.add_argument_group("accepted without effect")
    for name in INEFFECTIVE_FLAGS:
        section.add_argument(
            f"--{name}", nargs="?", metavar="VALUE", help="rows are tokenized when they are read"
        )
    return parser.format_help()


def to_finetune_argv(argv: Sequence[str], on_gpu: bool) -> list[str]:
    """Arguments of `finetune` that do what main.py does with `argv`.

    on_gpu: whether the run uses a GPU, which decides the precision (`precision_defaults`). Flags that the
    scripts give without an effect are left out, with a message. Raises `InputError` for unknown flags and
    where there is nothing to do.
    """
    flags = parse_thudm_flags(argv)
    training, evaluating, predicting = (
        is_enabled(flags, name) for name in ("do_train", "do_eval", "do_predict")
    )
    if not (training or evaluating or predicting):
        raise InputError("nothing to do: give --do_train, --do_eval, --do_predict, or several of them")
    if predicting and "predict_with_generate" in flags and not is_enabled(flags, "predict_with_generate"):
        raise InputError(
            "--predict_with_generate False: --do_predict writes answers; --do_eval gives the loss alone"
        )
    ineffective = [name for name in _ineffective_flags(training, evaluating, predicting) if name in flags]
    if ineffective:
        logger.info(f"without effect here: {', '.join(f'--{name}' for name in ineffective)}")
    given = {name: values for name, values in flags.items() if name not in ineffective}
    defaults = dict(_DEFAULT_LENGTHS)
    if training:
        defaults |= _DEFAULT_TRAIN_BATCH_SIZE
        defaults |= {} if "max_steps" in flags else _DEFAULT_EPOCHS
        defaults |= precision_defaults(on_gpu, flags)
    if evaluating or predicting:
        defaults |= _DEFAULT_EVAL_BATCH_SIZE
    if evaluating:
        defaults |= _DEFAULT_EVALUATION
    return [word for name, values in {**defaults, **given}.items() for word in (f"--{name}", *values)]


def precision_defaults(on_gpu: bool, flags: Flags) -> Flags:
    """What main.py does on GPUs without a flag: it recomputes activations, and holds a frozen model (beside a
    float32 prefix or LoRA) in half precision. On CPUs, which have no half-precision kernels, nothing.
    """
    if not on_gpu:
        return {}
    added: Flags = {"recompute": ["True"]}
    asked = [name for name in ("fp16", "bf16") if name in flags]
    if any(name in flags for name in _ADAPTER_FLAGS) and (
        not asked or any(is_enabled(flags, one) for one in asked)
    ):
        added |= {"fp16_opt_level": ["O2"]} | ({} if asked else {"fp16": ["True"]})
    return added


def parse_thudm_flags(argv: Sequence[str]) -> Flags:
    """{flag: values}, with paths in this system's notation; raises `InputError` for unknown flags."""
    flags: Flags = {}
    values: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name not in INEFFECTIVE_FLAGS:
                check_flag_name(name, "ptuning")
            values = flags[name] = [value] if equals else []
        elif values is None:
            raise InputError(f"{word!r} belongs to no flag: expected --do_train or --do_predict first")
        else:
            values.append(word)
    for name in _PATH_FLAGS:
        flags.update({name: [_to_native_path(value) for value in flags[name]]} if name in flags else {})
    return flags


def is_enabled(flags: Flags, name: str) -> bool:
    """Whether a switch is on: `--flag` or `--flag True`, not `--flag False`."""
    return name in flags and [value.lower() for value in flags[name]] not in (["false"], ["0"])


def _ineffective_flags(training: bool, evaluating: bool, predicting: bool) -> Sequence[str]:
    """Flags that THUDM's scripts give although they change nothing."""
    names = list(INEFFECTIVE_FLAGS)
    if not evaluating:
        names.append("validation_file")
    if not (evaluating or predicting):
        names += ["per_device_eval_batch_size", "predict_with_generate"]
    if not training:
        names.append("overwrite_output_dir")
    return names


def _to_native_path(text: str) -> str:
    """`text` with Windows' backslashes as slashes, unless a file has that very name."""
    if os.sep == "/" and "\\" in text and not Path(text).exists():
        return text.replace("\\", "/")
    return text
