"""`paddle-glm ptuning`: takes the flags of THUDM's ptuning/main.py, as train.sh and evaluate.sh give them."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from paddle_glm.errors import InputError
from paddle_glm.hub import folder_of

HELP = "run the flags of THUDM's ptuning scripts (main.py of train.sh and evaluate.sh)"

USAGE = f"""usage: paddle-glm ptuning --do_train|--do_predict FLAGS

{HELP}. --do_train goes to `paddle-glm finetune`, --do_predict (over --test_file) to
`paddle-glm evaluate`, which writes generated_predictions.txt into --output_dir. Flags that
neither knows are errors of theirs."""

# main.py's defaults where finetune has others.
_TRAIN_DEFAULTS = {
    "max_source_length": ["1024"],
    "max_target_length": ["128"],
    "per_device_train_batch_size": ["8"],
    "per_device_eval_batch_size": ["8"],
}
# There is nothing to do for them: rows are neither cached nor tokenized by other processes.
_NO_EFFECT = ("overwrite_cache", "preprocessing_num_workers")
_PATHS = (
    "train_file",
    "validation_file",
    "test_file",
    "model_name_or_path",
    "ptuning_checkpoint",
    "output_dir",
)
# main.py's flags of prediction -> those of evaluate.
_PREDICT = {
    "model_name_or_path": "model_name_or_path",
    "ptuning_checkpoint": "ptuning_checkpoint",
    "quantization_bit": "quantization_bit",
    "quantization_group_size": "quantization_group_size",
    "test_file": "data_file",
    "output_dir": "output_dir",
    "prompt_column": "prompt_column",
    "response_column": "response_column",
    "history_column": "history_column",
    "max_source_length": "src_length",
    "max_target_length": "tgt_length",
    "per_device_eval_batch_size": "batch_size",
    "max_predict_samples": "limit",
    "num_beams": "num_beams",
    "seed": "seed",
}
_PREDICT_ONLY = ("test_file", "max_predict_samples", "num_beams")

Flags = dict[str, list[str]]


def run_argv(argv: Sequence[str]) -> int:
    """Train, predict, or both, as the flags say; returns 0. Raises `InputError` for flags of no use."""
    from paddle_glm.parallel.leave import leave

    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    flags = _with_folder(_parse(argv))
    training, predicting = _switch(flags, "do_train"), _switch(flags, "do_predict")
    if not (training or predicting):
        raise InputError("nothing to do: give --do_train, --do_predict or both")
    if training:
        from paddle_glm.commands.finetune import train

        train(_words({**_TRAIN_DEFAULTS, **flags, "do_train": []}, leave_out=("do_predict", *_PREDICT_ONLY)))
    if predicting:
        _predict(_trained(flags) if training else flags)
    leave()
    return 0


def _parse(argv: Sequence[str]) -> Flags:
    """{name: values}, with paths as this system writes them; what has no effect is left out, and said."""
    from paddle_glm.training.command_line import check_name

    flags: Flags = {}
    values: list[str] | None = None
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name not in (*_NO_EFFECT, *_PREDICT, "do_predict"):
                check_name(name, "ptuning")
            values = flags[name] = [value] if equals else []
        elif values is None:
            raise InputError(f"{word!r} belongs to no flag: expected --do_train or --do_predict first")
        else:
            values.append(word)
    for name in _PATHS:
        flags.update({name: [_path(value) for value in flags[name]]} if name in flags else {})
    for name in _NO_EFFECT:
        flags.pop(name, None)
    return flags


def _with_folder(flags: Flags) -> Flags:
    """The flags with a folder for the model, which a hub's name may stand for."""
    if not flags.get("model_name_or_path"):
        return flags
    rest = {name: values for name, values in flags.items() if name not in ("download", "revision")}
    download = " ".join(flags["download"]) or True if "download" in flags else None
    revision = " ".join(flags.get("revision", [])) or None
    folder = folder_of(" ".join(flags["model_name_or_path"]), download, revision)
    return {**rest, "model_name_or_path": [str(folder)]}


def _path(text: str) -> str:
    """A path with backslashes, as on Windows, where no file has that very name."""
    if os.sep == "/" and "\\" in text and not Path(text).exists():
        return text.replace("\\", "/")
    return text


def _switch(flags: Flags, name: str) -> bool:
    """`--flag`, `--flag True` and `--flag False`."""
    return name in flags and [value.lower() for value in flags[name]] not in (["false"], ["0"])


def _trained(flags: Flags) -> Flags:
    """Flags that predict with what a run with `flags` has trained."""
    if "pre_seq_len" in flags or "ptuning_checkpoint" in flags:
        return {**flags, "ptuning_checkpoint": flags["output_dir"]}
    return {**flags, "model_name_or_path": flags["output_dir"]}


def _predict(flags: Mapping[str, list[str]]) -> None:
    from paddle_glm.commands import evaluate

    if "test_file" not in flags:
        raise InputError("--do_predict needs --test_file: the rows to answer")
    given: Flags = {
        "max_source_length": ["1024"],
        "max_target_length": ["128"],
        "per_device_eval_batch_size": ["8"],
        **{name: values for name, values in flags.items() if name in _PREDICT},
    }
    words = _words({_PREDICT[name]: values for name, values in given.items()})
    if "num_beams" not in flags:  # main.py draws its answers
        words += ["--do_sample", "True", "--top_p", "0.7", "--temperature", "0.95"]
    parser = argparse.ArgumentParser(prog="paddle-glm ptuning", allow_abbrev=False)
    evaluate.add_arguments(parser)
    args = parser.parse_args(words)
    evaluate.run(args)


def _words(flags: Mapping[str, list[str]], leave_out: Sequence[str] = ()) -> list[str]:
    return [
        word for name, values in flags.items() if name not in leave_out for word in (f"--{name}", *values)
    ]
