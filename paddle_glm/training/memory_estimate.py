"""Memory that a training run needs per rank, computed from parameter tables without building a model.

Weights, gradients and optimizer states follow from the tables that loading and sharding use, activations from
`training.activation_memory`. Not included: libraries, their workspaces, buckets of gradient all-reduces.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from paddle_glm.config import ModelConfig, released_configs
from paddle_glm.data.datasets import max_sample_length
from paddle_glm.errors import InputError
from paddle_glm.models.family import family_of
from paddle_glm.models.prefix_encoder import PREFIX_ENCODER
from paddle_glm.parallel import check_degree
from paddle_glm.peft.lora_config import LoraConfig, lora_specs
from paddle_glm.peft.lora_keys import DEFAULT_TARGET_MODULES
from paddle_glm.sharding import ParameterSpec, Sharding
from paddle_glm.training.activation_memory import MicroBatchSpec, activation_bytes
from paddle_glm.training.arguments import (
    DataArguments,
    FinetuneArguments,
    parameter_dtype,
    parse_sharding_stage,
)
from paddle_glm.training.model_arguments import ModelArguments
from paddle_glm.training.sharded_optimizer import assign_owners

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class TrainingPlan:
    """A training run.

    config: with its prefix and quantisation. lora: adapters to train; prefix_tuning: trains the prefix of
    `config`; with neither, all weights are trained. dtype: of the weights. half: matmuls in half precision.
    batch_size, seq_length: one batch of one process. stage: what data-parallel processes share out, 0 to 3.
    offload: the optimizer's state is in the host's memory.
    """

    config: ModelConfig
    lora: LoraConfig | None = None
    prefix_tuning: bool = False
    dtype: str = "float32"
    half: bool = False
    batch_size: int = 1
    seq_length: int = 1
    recompute: bool = False
    sequence_parallel: bool = False
    recompute_granularity: str = "full"
    tensor_degree: int = 1
    data_degree: int = 1
    stage: int = 0
    offload: bool = False

    @property
    def full_finetuning(self) -> bool:
        return self.lora is None and not self.prefix_tuning


@dataclass(frozen=True)
class MemoryEstimate:
    """Numbers of parameters of the whole model, and bytes on the rank that needs most.

    host: of its optimizer's state in the host's memory, where it is offloaded.
    """

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    host: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def resolve_config(model: str) -> ModelConfig:
    """The configuration of a model folder, or of a released model by its name.

    Raises `InputError` where it is neither.
    """
    if (Path(model) / "config.json").is_file():
        return ModelConfig.from_pretrained(model)
    name = Path(model).name.lower()
    released = released_configs()
    if name not in released:
        raise InputError(f"{model}: expected a model folder with config.json, or {', '.join(released)}")
    return ModelConfig.from_dict(released[name])


def plan_from_flags(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: FinetuneArguments,
    config: ModelConfig,
    processes: int | None,
) -> TrainingPlan:
    """The run that flags of `finetune` describe, of a model with this configuration.

    processes: of the run; None: as many as the flags ask for.
    Raises `InputError` for flags that do not go together, and for those whose folders would have to be read.
    """
    for flag in ("ptuning_checkpoint", "lora_path"):
        if getattr(model_args, flag) is not None:
            raise InputError(
                f"--{flag}: say what is trained by --pre_seq_len or --lora True with --lora_rank"
            )
    tensor_degree = max(args.tensor_parallel_degree, 1)
    if processes is None:
        processes = tensor_degree * max(args.sharding_parallel_degree, 1)
    check_degree(tensor_degree, processes)
    data_degree = processes // tensor_degree
    length = model_args.prefix_length
    if length is not None:
        config = replace(config, pre_seq_len=length, prefix_projection=model_args.prefix_projection)
    if model_args.quantization_bit:
        bits, group_size = model_args.quantization_bit, model_args.quantization_group_size
        config = family_of(config).quantized_config(config, bits, group_size)
    lora = None
    if model_args.lora:
        targets = tuple(model_args.lora_target_modules or DEFAULT_TARGET_MODULES)
        lora = LoraConfig(model_args.lora_rank, model_args.lora_alpha, model_args.lora_dropout, targets)
    if config.quantization_bit and lora is None and length is None:
        raise InputError(
            f"quantization_bit {config.quantization_bit}: quantised weights are not trained: give "
            "--lora True or --pre_seq_len"
        )
    half = args.device != "cpu" and (args.fp16 or args.bf16)
    return TrainingPlan(
        config=config,
        lora=lora,
        prefix_tuning=length is not None,
        dtype=parameter_dtype(args) if half else "float32",
        half=half,
        batch_size=args.per_device_train_batch_size,
        seq_length=max_sample_length(data_args.src_length, data_args.tgt_length),
        recompute=args.recompute,
        sequence_parallel=args.sequence_parallel and tensor_degree > 1,
        recompute_granularity=args.recompute_granularity,
        tensor_degree=tensor_degree,
        data_degree=data_degree,
        stage=parse_sharding_stage(args.sharding, args.sharding_parallel_degree, data_degree),
        offload=args.offload_optim and args.device != "cpu",
    )


def estimate_training_memory(plan: TrainingPlan) -> MemoryEstimate:
    """Raises `InputError` for adapters that fit no layer, and for degrees that cannot cut the model."""
    config = plan.config
    table = family_of(config).parameters(config)
    adapters = _lora_specs(plan)
    trained = {
        name: spec
        for name, spec in (adapters or table).items()
        if spec.dtype is None and (not plan.prefix_tuning or name.startswith(PREFIX_ENCODER))
    }
    table |= adapters
    local = {name: _local_size(spec, plan.tensor_degree) for name, spec in table.items()}
    size = {name: _DTYPE_BYTES[_storage_dtype(name, spec, plan, adapters)] for name, spec in table.items()}
    gradients = [local[name] * size[name] for name in trained]
    # Two float32 moments, two powers, and float32 master weights of half ones.
    states = [local[name] * (12 if size[name] == 2 else 8) + 8 for name in trained]
    gradient, state = sum(gradients), sum(states)
    if plan.stage:
        owners = assign_owners(states, plan.data_degree)
        state = _max_load(states, owners)
        gradient = _max_load(gradients, owners) if plan.stage >= 2 else gradient
    weights = {name: local[name] * size[name] for name in table}
    float_table = family_of(config).float_parameters(config)
    return MemoryEstimate(
        parameters=_num_parameters({**float_table, **adapters}),
        trainable=_num_parameters(trained),
        weights=sum(weights.values()) - _absent_weights(plan, table, weights) + _rotary_table_bytes(config),
        gradients=gradient,
        optimizer=0 if plan.offload else state,
        activations=activation_bytes(_micro_batch_spec(plan, table)),
        host=state if plan.offload else 0,
    )


def _absent_weights(
    plan: TrainingPlan, table: Mapping[str, ParameterSpec], weights: Mapping[str, int]
) -> int:
    """Bytes of weights that a process does not hold at once, at stage 3: two blocks are gathered there.

    weights: bytes of each parameter of `table`. Adapters and quantised weights are not sharded.
    """
    if plan.stage < 3:
        return 0
    blocks = f"{family_of(plan.config).block_activations.blocks}."
    sharded = {
        name: count
        for name, count in weights.items()
        if table[name].dtype is None and ".lora_" not in name and not name.startswith(PREFIX_ENCODER)
    }
    others = sum(sharded.values()) * (plan.data_degree - 1) // plan.data_degree
    gathered = sum(
        count * (2 if name.startswith(blocks) else 1)
        for name, count in sharded.items()
        if name.startswith(f"{blocks}0.") or not name.startswith(blocks)
    )
    return max(0, others - gathered * (plan.data_degree - 1) // plan.data_degree)


def _lora_specs(plan: TrainingPlan) -> dict[str, ParameterSpec]:
    """LoRA's matrices by their names in the model."""
    if plan.lora is None:
        return {}
    table = family_of(plan.config).float_parameters(plan.config)
    # Linear layers are cut; the vocabulary is cut with padding.
    modules = [
        name.removesuffix(".weight")
        for name, spec in table.items()
        if len(spec.shape) == 2 and spec.sharding.axis is not None and not spec.sharding.pad
    ]
    matched = [module for module in modules if plan.lora.matches(module)]
    if not matched:
        known = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
        raise InputError(
            f"lora_target_modules {' '.join(plan.lora.target_modules)}: the model's linear layers are {known}"
        )
    return {
        f"{module}.lora_{part}.weight": spec
        for module in matched
        for part, spec in zip("AB", lora_specs(module, table, plan.lora.lora_rank_of(module)), strict=True)
    }


def _storage_dtype(
    name: str, spec: ParameterSpec, plan: TrainingPlan, adapters: Mapping[str, ParameterSpec]
) -> str:
    """What a parameter is held in: adapters and prefixes are float32 whatever the model is."""
    if name in adapters or name.startswith(PREFIX_ENCODER):
        return "float32"
    return spec.dtype or plan.dtype


def _micro_batch_spec(plan: TrainingPlan, table: Mapping[str, ParameterSpec]) -> MicroBatchSpec:
    config, degree = plan.config, plan.tensor_degree
    stored, width = _DTYPE_BYTES[plan.dtype], 2 if plan.half else 4
    copies = head = largest = 0
    if plan.full_finetuning:
        first = f"{family_of(config).block_activations.blocks}.0."
        block = [spec for name, spec in table.items() if name.startswith(first)]
        matrices = [_local_size(spec, degree) for spec in block if len(spec.shape) == 2]
        shared = [spec for spec in block if _is_replicated(spec, degree)]
        copies = sum(_local_size(spec, degree) for spec in shared) * stored
        if width < stored:
            copies += sum(matrices) * width
        largest = max(matrices) * stored
        head = _local_size(ParameterSpec(*_vocab_shape_and_sharding(table)), degree) * stored
    return MicroBatchSpec(
        config=config,
        batch_size=plan.batch_size,
        seq_length=plan.seq_length,
        degree=degree,
        compute_itemsize=width,
        residual_itemsize=width if stored == width else 4,
        full_finetuning=plan.full_finetuning,
        lora=plan.lora,
        recompute=plan.recompute,
        sequence_parallel=plan.sequence_parallel,
        recompute_granularity=plan.recompute_granularity,
        weight_copy_bytes=copies,
        head_gradient_bytes=head,
        block_gradient_bytes=largest,
    )


def _is_replicated(spec: ParameterSpec, degree: int) -> bool:
    """Whether several processes hold the same rows: key/value heads that are fewer than these."""
    ranges = spec.sharding.replica_ranges(0, degree)
    return any(stop is not None and copies > 1 for _, stop, copies in ranges)


def _vocab_shape_and_sharding(table: Mapping[str, ParameterSpec]) -> tuple[tuple[int, ...], Sharding]:
    return next((spec.shape, spec.sharding) for spec in table.values() if spec.sharding.pad)


def _local_size(spec: ParameterSpec, degree: int) -> int:
    return prod(spec.sharding.local_shape(spec.shape, 0, degree))


def _num_parameters(table: Mapping[str, ParameterSpec]) -> int:
    return sum(prod(spec.shape) for spec in table.values())


def _max_load(sizes: Iterable[int], owners: Iterable[int]) -> int:
    """The most that one owner has."""
    loads: dict[int, int] = {}
    for size, owner in zip(sizes, owners, strict=True):
        loads[owner] = loads.get(owner, 0) + size
    return max(loads.values())


def _rotary_table_bytes(config: ModelConfig) -> int:
    """Bytes of the table of cosines and sines: float32 [max_sequence_length, rotary_dim / 2, 2]."""
    return 4 * config.max_sequence_length * family_of(config).rotary_dim(config)
