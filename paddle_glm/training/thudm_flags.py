"""The flags of THUDM's ptuning/main.py, as train.sh and evaluate.sh give them, as those of `finetune`."""

import os
from collections.abc import Sequence
from pathlib import Path

from paddlenlp.utils.log import logger

from paddle_glm.errors import InputError
from paddle_glm.training.command_line import check_flag_name

Flags = dict[str, list[str]]

# main.py's defaults where finetune has others.
_DEFAULT_LENGTHS: Flags = {"max_source_length": ["1024"], "max_target_length": ["128"]}
_DEFAULT_BATCH_SIZE = ["8"]
_DEFAULT_EPOCHS = ["3"]
# Rows are neither cached nor tokenized by other processes.
INEFFECTIVE_FLAGS = ("overwrite_cache", "preprocessing_num_workers")
_PATH_FLAGS = (
    *("train_file", "validation_file", "test_file", "model_name_or_path", "ptuning_checkpoint"),
    *("lora_path", "output_dir"),
)
_ADAPTER_FLAGS = ("pre_seq_len", "prefix_tuning", "ptuning_checkpoint", "lora", "lora_path")


def to_finetune_argv(argv: Sequence[str], on_gpu: bool) -> list[str]:
    """Words for `finetune` that do what main.py does with `argv`.

    on_gpu: whether it will run there, which decides the precision (`precision_defaults`). What the scripts
    give without an effect is left out, and said. Raises `InputError` for flags that are none or do nothing.
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
    idle = [name for name in _ineffective_flags(training, evaluating, predicting) if name in flags]
    if idle:
        logger.info(f"without effect here: {', '.join(f'--{name}' for name in idle)}")
    given = {name: values for name, values in flags.items() if name not in idle}
    defaults = dict(_DEFAULT_LENGTHS)
    if training:
        defaults["per_device_train_batch_size"] = _DEFAULT_BATCH_SIZE
        defaults |= {} if "max_steps" in flags else {"num_train_epochs": _DEFAULT_EPOCHS}
        defaults |= precision_defaults(on_gpu, flags)
    if evaluating or predicting:
        defaults["per_device_eval_batch_size"] = _DEFAULT_BATCH_SIZE
    if evaluating:
        defaults["evaluation_strategy"] = ["no"]  # at the end alone
    return [word for name, values in {**defaults, **given}.items() for word in (f"--{name}", *values)]


def precision_defaults(on_gpu: bool, flags: Flags) -> Flags:
    """What main.py does without being asked to: activations are recomputed, and a model that stays as it is
    (a prefix or LoRA is trained beside it, in float32) is held in half precision.

    On CPUs half precision has no kernels, and nothing is added.
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
    """{name: values}, with paths as this system writes them; raises `InputError` for unknown names."""
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
    """`--flag`, `--flag True` and `--flag False`."""
    return name in flags and [value.lower() for value in flags[name]] not in (["false"], ["0"])


def _ineffective_flags(training: bool, evaluating: bool, predicting: bool) -> Sequence[str]:
    """What THUDM's scripts give although it changes nothing in what they do."""
    names = list(INEFFECTIVE_FLAGS)
    if not evaluating:
        names.append("validation_file")
    if not (evaluating or predicting):
        names += ["per_device_eval_batch_size", "predict_with_generate"]
    if not training:
        names.append("overwrite_output_dir")
    return names


def _to_native_path(text: str) -> str:
    """A path with backslashes, as on Windows, where no file has that very name."""
    if os.sep == "/" and "\\" in text and not Path(text).exists():
        return text.replace("\\", "/")
    return text
