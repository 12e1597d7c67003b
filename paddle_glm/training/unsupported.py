"""What PaddleNLP's Trainer knows and this trainer does not do: an error rather than no effect."""

from dataclasses import fields

from paddlenlp.trainer import TrainingArguments

from paddle_glm.errors import InputError

_UNSUPPORTED = (
    "do_predict",
    "do_export",
    "sharding_degree",
    "pipeline_parallel_degree",
    "sep_parallel_degree",
    "context_parallel_degree",
    "expert_parallel_degree",
    "sequence_parallel",
    "use_expert_parallel",
    "enable_auto_parallel",
    "distributed_dataloader",
    "to_static",
    "unified_checkpoint",
    "use_async_save",
    "save_on_each_node",
    "flatten_param_grads",
    "amp_master_grad",
    "ignore_data_skip",
    "ignore_load_lr_and_optim",
    "ignore_save_lr_and_optim",
    "skip_data_intervals",
    "tensor_parallel_config",
    "sequence_parallel_config",
    "pipeline_parallel_config",
    "sharding_parallel_config",
    "data_parallel_config",
    "save_sharded_model",
    "load_sharded_model",
    "offload_optim",
    "refined_recompute",
    "count_trained_tokens",
    "ordered_save_group_size",
    "optim",
    "wandb_api_key",
    "wandb_http_proxy",
)


def check_supported(args: TrainingArguments) -> None:
    """Raise `InputError` for an argument of these that is not at PaddleNLP's default."""
    defaults = {item.name: item.default for item in fields(TrainingArguments)}
    for name in _UNSUPPORTED:
        if getattr(args, name) != defaults[name]:
            raise InputError(
                f"--{name} {getattr(args, name)} is not supported: leave it out (finetune trains with "
                "AdamW, and combines data parallelism with --tensor_parallel_degree)"
            )
