"""Arguments of `finetune`, by PaddleNLP's names: groups, defaults, help texts and checks.

Plain dataclasses, which import neither Paddle nor PaddleNLP. `training.initialize` makes the Trainer's
arguments of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from paddle_glm.checkpoint.save import FORMATS, SAVE_FORMAT_HELP
from paddle_glm.errors import InputError
from paddle_glm.hardware import DEVICE_HELP
from paddle_glm.training.flag_fields import (
    CHECKPOINTS,
    DATA,
    LOGGING,
    OPTIMISATION,
    PARALLELISM,
    TASK,
    flag,
    required_flag,
)

# PaddleNLP's names; offload is a flag of its own.
_SHARDING_STAGES = {"": 0, "stage1": 1, "stage2": 2, "stage3": 3}
_STRATEGIES = ("no", "steps", "epoch")
_LENGTH_FLAGS = ("src_length", "tgt_length")
_OPTIONAL_COUNT_FLAGS = (
    *("max_train_samples", "max_eval_samples", "max_predict_samples"),
    *("val_max_target_length", "num_beams"),
)
_BATCH_SIZE_FLAGS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)


@dataclass
class DataArguments:
    """Which rows to train, evaluate and predict on, and how they are tokenized."""

    task_name_or_path: str | None = flag(
        DATA,
        None,
        "folder with train.json and dev.json (.jsonl, .csv, .tsv, .parquet too), or one data file "
        "(default: the files given by name)",
        metavar="PATH",
    )
    train_file: str | None = flag(
        DATA, None, "training rows (default: the training file of --task_name_or_path)", metavar="FILE"
    )
    validation_file: str | None = flag(
        DATA,
        None,
        "evaluation rows (default: the dev file of --task_name_or_path, or 2 % of the training rows)",
        metavar="FILE",
    )
    test_file: str | None = flag(
        DATA,
        None,
        "rows that are evaluated (--do_eval) or answered (--do_predict) at the end (default: none)",
        metavar="FILE",
    )
    max_train_samples: int | None = flag(DATA, None, "train on the first N rows (default: all)")
    max_eval_samples: int | None = flag(DATA, None, "evaluate on the first N rows (default: all)")
    max_predict_samples: int | None = flag(DATA, None, "answer the first N rows (default: all)")
    prompt_column: str | None = flag(
        DATA, None, "a row's key of the question (default: a known name)", metavar="KEY"
    )
    response_column: str | None = flag(
        DATA, None, "a row's key of the answer (default: a known name)", metavar="KEY"
    )
    history_column: str | None = flag(
        DATA,
        None,
        "a row's key of the earlier [question, answer] pairs (default: a known name)",
        metavar="KEY",
    )
    src_length: int = flag(
        DATA, 128, "maximum prompt length in tokens; longer prompts are truncated as by THUDM and PaddleNLP"
    )
    tgt_length: int = flag(DATA, 128, "maximum answer length in tokens, in training and in generation")
    val_max_target_length: int | None = flag(
        DATA, None, "--tgt_length of evaluation and prediction (default: --tgt_length)"
    )
    source_prefix: str | None = flag(
        DATA, None, "text in front of every prompt (default: none)", metavar="TEXT"
    )
    dataset_cache: str | None = flag(
        DATA,
        None,
        "tokenize the training rows once, by all processes, and keep the tokens in this folder instead of in "
        "memory (default: do not)",
        metavar="FOLDER",
    )
    lazy: bool = flag(
        DATA,
        False,
        "read and tokenize a training row (JSON Lines) when it is needed, instead of at the start",
    )
    zero_padding: bool = flag(DATA, False, "pack several rows into one sequence instead of padding them")
    do_generation: bool = flag(
        LOGGING, False, "also generate answers in evaluation: ROUGE-1, ROUGE-2, ROUGE-L and BLEU-4"
    )
    num_beams: int | None = flag(LOGGING, None, "beams of generated answers (default: 1, no beam search)")

    @property
    def eval_tgt_length(self) -> int:
        """`tgt_length` of evaluation and prediction."""
        return self.tgt_length if self.val_max_target_length is None else self.val_max_target_length

    def check(self) -> None:
        """Raise `InputError` for lengths and counts below 1."""
        _check_positive(self, _LENGTH_FLAGS)
        _check_positive(self, [name for name in _OPTIONAL_COUNT_FLAGS if getattr(self, name) is not None])


@dataclass
class FinetuneArguments:
    """What a run does: the flags of PaddleNLP's Trainer that `finetune` supports, and a few of its own.

    Making an instance has no side effects: `training.initialize.initialize_training` chooses the device and
    joins the process groups.
    """

    output_dir: str = required_flag(
        TASK, "folder of checkpoints, logs and the trained model", metavar="FOLDER"
    )
    overwrite_output_dir: bool = flag(
        CHECKPOINTS,
        False,
        "start anew instead of resuming; an earlier run's checkpoints are removed once this one has "
        "saved its first",
    )
    do_train: bool = flag(TASK, False, "train")
    do_eval: bool = flag(TASK, False, "evaluate, while training and at the end")
    do_predict: bool = flag(TASK, False, "answer the rows of --test_file at the end")
    device: str | None = flag(TASK, None, f"{DEVICE_HELP} (default: auto)", metavar="DEVICE")
    seed: int = flag(TASK, 42, "random seed of initial adapters, order of rows, dropout and sampling")

    tensor_parallel_degree: int = flag(
        PARALLELISM, 1, "processes that one model is split over; all processes / N are data-parallel"
    )
    sequence_parallel: bool = flag(
        PARALLELISM,
        False,
        "share out norms, dropout and residuals over the processes of a model by tokens, to save memory",
    )
    sharding: str = flag(
        PARALLELISM,
        "",
        "ZeRO over the data-parallel processes; stage1: optimizer state, stage2: gradients too, stage3: "
        "parameters too (default: none)",
        metavar="STAGE",
    )
    sharding_parallel_degree: int = flag(
        PARALLELISM, -1, "number of data-parallel processes, as --sharding takes all of them; -1: not given"
    )
    offload_optim: bool = flag(
        PARALLELISM,
        False,
        "keep AdamW's state in the host's memory and update the weights there (12 bytes a parameter)",
    )
    hang_timeout: float = flag(
        PARALLELISM,
        45.0,
        "seconds after which a process that is silent, or stuck in a training step, ends the run on all",
    )
    fp16: bool = flag(PARALLELISM, False, "compute in float16 with loss scaling (GPU)")
    bf16: bool = flag(PARALLELISM, False, "compute in bfloat16 (GPU)")
    fp16_opt_level: str = flag(
        PARALLELISM,
        "O1",
        "with --fp16 or --bf16; O1: float32 weights, O2: half-precision weights with float32 master weights",
        metavar="LEVEL",
    )
    amp_custom_black_list: list[str] | None = flag(
        PARALLELISM,
        None,
        "at O1: operators that compute in float32 too (default: Paddle's list)",
        metavar="OP",
    )
    amp_custom_white_list: list[str] | None = flag(
        PARALLELISM,
        None,
        "at O1: operators that compute in half precision too (default: Paddle's list)",
        metavar="OP",
    )
    scale_loss: float = flag(PARALLELISM, 32768, "initial loss scale of --fp16")
    recompute: bool = flag(
        PARALLELISM, False, "recompute each block's activations in the backward pass, to save memory"
    )
    recompute_granularity: str = flag(
        PARALLELISM,
        "full",
        "what --recompute computes again: blocks, attention layers, or attention between its products",
        choices=("full", "full_attn", "core_attn"),
    )

    per_device_train_batch_size: int = flag(
        OPTIMISATION, 8, "rows per training batch of each data-parallel process"
    )
    gradient_accumulation_steps: int = flag(OPTIMISATION, 1, "batches per optimizer step")
    num_train_epochs: float = flag(OPTIMISATION, 1.0, "epochs to train; may be a fraction")
    max_steps: int = flag(
        OPTIMISATION, -1, "optimizer steps to train, instead of --num_train_epochs; -1: by epochs"
    )
    learning_rate: float = flag(OPTIMISATION, 5e-5, "AdamW's peak learning rate")
    lr_scheduler_type: str = flag(
        OPTIMISATION,
        "linear",
        "learning rate schedule; all but constant start with the warmup",
        choices=("linear", "cosine", "constant", "constant_with_warmup", "polynomial"),
    )
    warmup_steps: int = flag(OPTIMISATION, 0, "steps of linear warmup from 0 to --learning_rate")
    warmup_ratio: float = flag(
        OPTIMISATION, 0.0, "warmup as a fraction of all steps, where --warmup_steps is not given"
    )
    num_cycles: float = flag(
        OPTIMISATION, 0.5, "cosine schedule: number of periods; 0.5 decays from the peak to 0"
    )
    lr_end: float = flag(OPTIMISATION, 1e-7, "polynomial schedule: final learning rate")
    power: float = flag(OPTIMISATION, 1.0, "polynomial schedule: exponent of the decay")
    weight_decay: float = flag(OPTIMISATION, 0.0, "AdamW's weight decay; norms and biases are not decayed")
    adam_beta1: float = flag(OPTIMISATION, 0.9, "AdamW's decay rate of the first moment")
    adam_beta2: float = flag(OPTIMISATION, 0.999, "AdamW's decay rate of the second moment")
    adam_epsilon: float = flag(OPTIMISATION, 1e-8, "AdamW's epsilon")
    max_grad_norm: float = flag(OPTIMISATION, 1.0, "clip gradients to this global norm")
    group_by_length: bool = flag(OPTIMISATION, False, "put rows of similar length into one batch")
    dataloader_drop_last: bool = flag(OPTIMISATION, False, "drop an epoch's last batch if it is not full")
    dataloader_num_workers: int = flag(
        OPTIMISATION, 0, "processes that load batches; 0: the training process itself"
    )

    save_strategy: str = flag(CHECKPOINTS, "steps", "when to save a checkpoint", choices=_STRATEGIES)
    save_steps: int = flag(CHECKPOINTS, 500, "optimizer steps between checkpoints")
    save_total_limit: int | None = flag(
        CHECKPOINTS, None, "keep N checkpoints of this run, the newest and the best among them (default: all)"
    )
    save_format: str = flag(
        CHECKPOINTS,
        FORMATS[0],
        f"file format of the trained model, not of checkpoints; {SAVE_FORMAT_HELP}",
        metavar="FORMAT",
    )
    resume_from_checkpoint: str | None = flag(
        CHECKPOINTS,
        None,
        "checkpoint folder to resume from, True for the newest complete one of --output_dir, False for none "
        "(default: the newest complete one, unless --overwrite_output_dir is given)",
        metavar="FOLDER",
    )
    load_best_model_at_end: bool = flag(
        CHECKPOINTS, False, "make the best checkpoint's weights the trained model"
    )
    metric_for_best_model: str | None = flag(
        CHECKPOINTS,
        None,
        "metric that tells the best checkpoint: loss, accuracy, rouge-l, ... (default: loss, with "
        "--load_best_model_at_end)",
        metavar="NAME",
    )
    greater_is_better: bool | None = flag(
        CHECKPOINTS,
        None,
        "whether the largest value of --metric_for_best_model is the best (default: for all but loss and "
        "perplexity)",
    )

    evaluation_strategy: str | None = flag(
        LOGGING,
        None,
        "when to evaluate while training; no: at the end only (default: steps with --do_eval, otherwise no)",
        choices=_STRATEGIES,
    )
    eval_steps: int | None = flag(
        LOGGING, None, "optimizer steps between evaluations (default: --logging_steps)"
    )
    minimum_eval_times: int | None = flag(
        LOGGING, None, "lower --eval_steps so that a run evaluates at least N times (default: do not)"
    )
    max_evaluate_steps: int = flag(
        LOGGING, -1, "batches per evaluation of each data-parallel process; -1: all"
    )
    per_device_eval_batch_size: int = flag(
        LOGGING, 8, "rows per evaluation batch of each data-parallel process"
    )
    logging_strategy: str = flag(LOGGING, "steps", "when to log the training loss", choices=_STRATEGIES)
    logging_steps: int = flag(LOGGING, 500, "optimizer steps between log entries")
    logging_first_step: bool = flag(LOGGING, False, "also log the first optimizer step")
    report_to: str = flag(LOGGING, "visualdl", "visualdl or none: write a VisualDL log", metavar="NAME")
    logging_dir: str | None = flag(
        LOGGING, None, "folder of the VisualDL log (default: OUTPUT_DIR/runs)", metavar="FOLDER"
    )
    metrics_output_path: str | None = flag(
        LOGGING, None, "folder for metrics_rankN.json, each process's log entries (default: none)",
        metavar="FOLDER",
    )  # fmt: skip
    disable_tqdm: bool | None = flag(
        LOGGING, None, "print log entries instead of progress bars (default: off)"
    )
    skip_memory_metrics: bool = flag(LOGGING, True, "leave memory use out of the results' metrics")
    skip_profile_timer: bool = flag(LOGGING, True, "do not time the parts of each training step")

    def check(self) -> None:
        """Raise `InputError` for values out of range and for flags that exclude each other."""
        if self.save_format not in FORMATS:
            raise InputError(f"--save_format {self.save_format}: expected one of {', '.join(FORMATS)}")
        if self.report_to not in ("visualdl", "none"):
            raise InputError(f"--report_to {self.report_to}: expected visualdl or none")
        if self.fp16 and self.bf16:
            raise InputError("--fp16 and --bf16 exclude each other: give one")
        _check_positive(self, _BATCH_SIZE_FLAGS)


def _check_positive(values: Any, names: Iterable[str]) -> None:
    for name in names:
        if getattr(values, name) < 1:
            raise InputError(f"--{name} {getattr(values, name)}: expected at least 1")


def parse_sharding_stage(sharding: str, sharding_parallel_degree: int, data_parallel_degree: int) -> int:
    """ZeRO stage 0 to 3 of `--sharding`; raises `InputError` for other stages and for a degree that is not
    the number of data-parallel processes.
    """
    if sharding not in _SHARDING_STAGES:
        raise InputError(
            f"--sharding {sharding}: expected stage1, stage2 or stage3 (offload is --offload_optim "
            "True; --tensor_parallel_degree can be combined with any)"
        )
    stage = _SHARDING_STAGES[sharding]
    if stage and sharding_parallel_degree not in (-1, data_parallel_degree):
        raise InputError(
            f"--sharding_parallel_degree {sharding_parallel_degree}: expected {data_parallel_degree}, "
            "the number of data-parallel processes (all processes / tensor_parallel_degree), or leave it out"
        )
    if not stage and sharding_parallel_degree > 1:
        raise InputError("--sharding_parallel_degree needs --sharding stage1, stage2 or stage3")
    return stage


def parameter_dtype(values: Any) -> str:
    """Dtype of the weights, by `fp16`, `bf16` and `fp16_opt_level`: half precision at O2 only."""
    if values.fp16_opt_level == "O2" and (values.fp16 or values.bf16):
        return "float16" if values.fp16 else "bfloat16"
    return "float32"
