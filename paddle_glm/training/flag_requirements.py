"""Requirements of the flags of `finetune`: a flag that would have no effect is an error."""

import logging
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paddle_glm.errors import InputError
from paddle_glm.peft.lora_config import read_lora_config
from paddle_glm.training.flag_fields import parse_bool

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Requirement:
    """What a flag needs to have an effect. `is_met` is called with the values of all flags."""

    text: str
    is_met: Callable[[Any], bool]


def _evaluates(values: Any) -> bool:
    return bool(values.do_eval) or values.evaluation_strategy not in (None, "no")


_TRAINING = Requirement("--do_train", lambda values: values.do_train)
_EVALUATION = Requirement("--do_eval", _evaluates)
_PREDICTION = Requirement("--do_predict", lambda values: values.do_predict)
_EVALUATION_OR_PREDICTION = Requirement(
    "--do_eval or --do_predict", lambda values: _evaluates(values) or values.do_predict
)
_GENERATION = Requirement(
    "--do_predict, or --do_eval with --do_generation",
    lambda values: values.do_predict or (_evaluates(values) and values.do_generation),
)
_HALF = Requirement("--fp16 or --bf16", lambda values: values.fp16 or values.bf16)


def _by_flag(*rows: tuple[Requirement, str]) -> dict[str, tuple[Requirement, ...]]:
    """{flag: its requirements, in the order of the rows}; a row names its flags with spaces between them."""
    names = dict.fromkeys(name for _, flags in rows for name in flags.split())
    return {name: tuple(need for need, flags in rows if name in flags.split()) for name in names}


# What each flag needs to have an effect.
FLAG_REQUIREMENTS = _by_flag(
    (
        _TRAINING,
        "overwrite_output_dir resume_from_checkpoint per_device_train_batch_size gradient_accumulation_steps "
        "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs "
        "max_steps lr_scheduler_type warmup_ratio warmup_steps num_cycles lr_end power logging_strategy "
        "logging_first_step logging_steps logging_dir save_strategy save_steps save_total_limit save_format "
        "recompute sequence_parallel scale_loss sharding sharding_parallel_degree offload_optim "
        "dataloader_drop_last "
        "load_best_model_at_end metric_for_best_model greater_is_better eval_steps minimum_eval_times "
        "group_by_length zero_padding max_train_samples skip_profile_timer dataset_cache lazy",
    ),
    (
        Requirement(
            "--dataset_cache left out, which has the tokens already", lambda values: not values.dataset_cache
        ),
        "lazy",
    ),
    (
        Requirement(
            "the tokens of all rows: --dataset_cache FOLDER in place of --lazy",
            lambda values: not values.lazy,
        ),
        "zero_padding",
    ),
    (
        _EVALUATION,
        "validation_file max_eval_samples max_evaluate_steps eval_steps minimum_eval_times "
        "load_best_model_at_end metric_for_best_model greater_is_better",
    ),
    (_PREDICTION, "max_predict_samples"),
    (_EVALUATION_OR_PREDICTION, "test_file per_device_eval_batch_size do_generation val_max_target_length"),
    (_GENERATION, "num_beams"),
    (
        Requirement(
            "--do_train, or --do_eval without --validation_file",
            lambda values: values.do_train or (_evaluates(values) and values.validation_file is None),
        ),
        "train_file",
    ),
    (
        Requirement(
            "--pre_seq_len N",
            lambda values: values.pre_seq_len or values.prefix_tuning or values.ptuning_checkpoint,
        ),
        "prefix_projection",
    ),
    (Requirement("--prefix_tuning True", lambda values: values.prefix_tuning), "num_prefix_tokens"),
    (
        Requirement("--do_train, or --lora_path FOLDER", lambda values: values.do_train or values.lora_path),
        "lora",
    ),
    (
        Requirement("--lora True", lambda values: values.lora or values.lora_path),
        "lora_rank lora_alpha lora_dropout lora_target_modules",
    ),
    (
        Requirement("--quantization_bit 4 or 8", lambda values: values.quantization_bit),
        "quantization_group_size",
    ),
    (
        Requirement("--tensor_parallel_degree above 1", lambda values: values.tensor_parallel_degree > 1),
        "sequence_parallel",
    ),
    (Requirement("--recompute True", lambda values: values.recompute), "recompute_granularity"),
    (_HALF, "fp16_opt_level amp_custom_black_list amp_custom_white_list"),
    (
        Requirement("--fp16_opt_level O1", lambda values: values.fp16_opt_level == "O1"),
        "amp_custom_black_list amp_custom_white_list",
    ),
    (Requirement("--fp16 (bfloat16 and float32 are not scaled)", lambda values: values.fp16), "scale_loss"),
    (
        Requirement(
            "--evaluation_strategy steps", lambda values: values.evaluation_strategy in (None, "steps")
        ),
        "eval_steps minimum_eval_times",
    ),
    (
        Requirement(
            "--logging_strategy steps",
            # The steps between evaluations, too, where nothing else says them.
            lambda values: values.logging_strategy == "steps" or _evaluates(values),
        ),
        "logging_steps",
    ),
    (Requirement("--report_to visualdl", lambda values: values.report_to == "visualdl"), "logging_dir"),
    (
        Requirement(
            "another --lr_scheduler_type than constant",
            lambda values: values.lr_scheduler_type != "constant",
        ),
        "warmup_ratio warmup_steps",
    ),
    (
        Requirement(
            "--lr_scheduler_type polynomial", lambda values: values.lr_scheduler_type == "polynomial"
        ),
        "lr_end power",
    ),
    (
        Requirement("--lr_scheduler_type cosine", lambda values: values.lr_scheduler_type == "cosine"),
        "num_cycles",
    ),
    (
        Requirement("--metric_for_best_model NAME", lambda values: values.metric_for_best_model),
        "greater_is_better",
    ),
)

# Flags that another flag overrides: accepted with a warning, since published guides give both.
OVERRIDDEN_FLAGS = _by_flag(
    (Requirement("--max_steps left out", lambda values: values.max_steps <= 0), "num_train_epochs"),
    (Requirement("--warmup_steps left out", lambda values: values.warmup_steps == 0), "warmup_ratio"),
    (Requirement("--save_strategy steps", lambda values: values.save_strategy == "steps"), "save_steps"),
    (
        Requirement("--save_strategy steps or epoch", lambda values: values.save_strategy != "no"),
        "save_total_limit",
    ),
)

_ALWAYS_EFFECTIVE = (
    "model_name_or_path family download revision pre_seq_len ptuning_checkpoint prefix_tuning lora_path "
    "quantization_bit task_name_or_path prompt_column response_column history_column src_length tgt_length "
    "source_prefix output_dir do_train do_eval do_predict evaluation_strategy device tensor_parallel_degree "
    "seed hang_timeout fp16 bf16 report_to disable_tqdm dataloader_num_workers skip_memory_metrics "
    "metrics_output_path"
)
ALWAYS_EFFECTIVE = frozenset(_ALWAYS_EFFECTIVE.split())

# Flags of PaddleNLP's Trainer that are not supported, with the defaults that they may be given at.
_UNSUPPORTED_BY_DEFAULT: tuple[tuple[Any, str], ...] = (
    (
        False,
        "do_export prediction_loss_only no_cuda save_on_each_node amp_master_grad bf16_full_eval "
        "fp16_full_eval save_sharded_model load_sharded_model "
        "fuse_sequence_parallel_allreduce ignore_data_skip auto_parallel_resume_form_hybrid_parallel "
        "flatten_param_grads use_async_save distributed_dataloader unified_checkpoint to_static "
        "ignore_load_lr_and_optim ignore_save_lr_and_optim force_reshard_pp enable_auto_parallel "
        "use_expert_parallel release_grads save_sharding_stage1_model_include_freeze_params "
        "pdc_download_ckpt count_trained_tokens",
    ),
    (True, "log_on_each_node split_inputs_sequence_dim remove_unused_columns lazy_data_processing"),
    (
        None,
        "eval_accumulation_steps output_signal_dir hybrid_parallel_topo_order run_name label_names "
        "ddp_find_unused_parameters wandb_api_key wandb_http_proxy skip_data_intervals",
    ),
    (
        -1,
        "sharding_degree sharding_comm_buffer_size_MB pipeline_parallel_degree sep_parallel_degree "
        "context_parallel_degree expert_parallel_degree expert_tensor_parallel_degree local_rank past_index",
    ),
    (
        "",
        "data_parallel_config sequence_parallel_config tensor_parallel_config pipeline_parallel_config "
        "sharding_parallel_config refined_recompute unified_checkpoint_config",
    ),
    (0, "ordered_save_group_size pad_token_id"),
    (1, "expert_min_capacity"),
    (2**32, "expert_max_capacity"),
    (300, "pdc_download_timeout"),
    ("adamw", "optim"),
    ("dp", "sharding_parallel_mesh_dimension"),
    ("O0", "ckpt_quant_stage"),
)
UNSUPPORTED_FLAGS = {name: default for default, names in _UNSUPPORTED_BY_DEFAULT for name in names.split()}


def check_supported(argv: Sequence[str]) -> list[str]:
    """`argv` without the flags of `UNSUPPORTED_FLAGS`; raises `InputError` for one at another value
    than its default.

    argv: flags by their names, as `--name value`, `--name=value`, `--name` or `--no_name`.
    """
    supported: list[str] = []
    for words in _split_by_flag(argv):
        name, equals, value = words[0].removeprefix("--").partition("=")
        given = " ".join([value] if equals else words[1:]) or "True"
        if UNSUPPORTED_FLAGS.get(name.removeprefix("no_")) is True and name not in UNSUPPORTED_FLAGS:
            name, given = name.removeprefix("no_"), "False"
        if name not in UNSUPPORTED_FLAGS:
            supported += words
        elif not _is_default(given, UNSUPPORTED_FLAGS[name]):
            raise InputError(
                f"--{name} {given} is not supported: leave it out (finetune trains with AdamW, and combines "
                "data parallelism with --tensor_parallel_degree)"
            )
    return supported


def _split_by_flag(argv: Sequence[str]) -> Iterator[list[str]]:
    """Each flag with the values behind it; first the values that stand before any flag."""
    words: list[str] = []
    for word in argv:
        if word.startswith("--") and words:
            yield words
            words = []
        words.append(word)
    if words:
        yield words


def _is_default(given: str, default: Any) -> bool:
    if isinstance(default, bool):
        try:
            return parse_bool(given) == default
        except ArgumentTypeError:
            return False
    return default is not None and given == str(default)


def unmet_requirement(name: str, values: Namespace) -> Requirement | None:
    """The first requirement that the flag lacks, or None. A switch that is off has none."""
    if getattr(values, name) in (None, False, ""):
        return None
    return next((need for need in FLAG_REQUIREMENTS.get(name, ()) if not need.is_met(values)), None)


def check_flag_requirements(given: Collection[str], values: Namespace) -> None:
    """Raise `InputError` for the first flag of `given` that has no effect, or contradicts `--lora_path`.

    Nothing is checked where nothing is to be done (no --do_train, --do_eval or --do_predict).
    """
    if not (_TRAINING.is_met(values) or _EVALUATION_OR_PREDICTION.is_met(values)):
        return
    for name in given:
        need = unmet_requirement(name, values)
        if need is not None:
            value = getattr(values, name)
            shown = "" if value is True else f" {value}"
            raise InputError(f"--{name}{shown} has no effect here: it needs {need.text}")
        for need in OVERRIDDEN_FLAGS.get(name, ()):
            if not need.is_met(values):
                logger.warning(f"--{name} {getattr(values, name)} has no effect here: it needs {need.text}")
    if values.lora_path is not None:
        _check_lora_flags(given, values)


def _check_lora_flags(given: Collection[str], values: Namespace) -> None:
    """Raise `InputError` for LoRA flags that differ from the configuration in `--lora_path`."""
    config = read_lora_config(values.lora_path)
    for name, value in (
        *(("lora_rank", config.rank), ("lora_alpha", config.alpha), ("lora_dropout", config.dropout)),
        ("lora_target_modules", list(config.target_modules)),
    ):
        if name in given and getattr(values, name) != value:
            raise InputError(
                f"--{name} {getattr(values, name)}: the adapters in {values.lora_path} have {value}; leave "
                "it out, or train new ones without --lora_path"
            )
