"""What a training run needs of memory on each process, from tables of parameters: no model is built.

Weights, gradients and the optimizer's state are counted from the tables that loading and splitting use,
activations by the formula of `training.activations`. Not counted: the libraries, their workspaces, and
buckets of gradients on their way between processes.
"""

from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from paddle_glm.config import ModelConfig
from paddle_glm.errors import InputError
from paddle_glm.families import ParameterSpec, family_of
from paddle_glm.families.prefix import PREFIX_ENCODER
from paddle_glm.parallel import check_degree
from paddle_glm.peft.lora_config import DEFAULT_TARGETS, LoraConfig, specs_of
from paddle_glm.training.activations import Step, activation_bytes
from paddle_glm.training.arguments import ModelArguments, stage_of, stored_dtype
from paddle_glm.training.data import longest_sample
from paddle_glm.training.sharded import owners_of

_CHATGLM_6B = ModelConfig(
    family="chatglm",
    num_key_value_heads=32,
    ffn_hidden_size=16384,
    vocab_size=130528,
    max_sequence_length=2048,
    position_encoding_2d=True,
)
# Sizes of the released models, by their names on the hub.
RELEASED = {
    "chatglm-6b": _CHATGLM_6B,
    "chatglm2-6b": ModelConfig(),
    "chatglm3-6b": ModelConfig(family="chatglm3", max_sequence_length=8192),
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Plan:
    """A run: `config` with its prefix and quantisation, and what is trained.

    lora: adapters to train beside the model; trains_prefix: the prefix of `config` alone is trained; else all
    of the model. dtype: what the model's weights are held in; half: whether products are in half precision.
    rows, tokens: one batch of one process. stage: what data-parallel processes share out, 0 to 2.
    """

    config: ModelConfig
    lora: LoraConfig | None = None
    trains_prefix: bool = False
    dtype: str = "float32"
    half: bool = False
    rows: int = 1
    tokens: int = 1
    recompute: bool = False
    tensor_degree: int = 1
    data_degree: int = 1
    stage: int = 0

    @property
    def trains_all(self) -> bool:
        return self.lora is None and not self.trains_prefix


@dataclass(frozen=True)
class Memory:
    """Parameters of the whole model, and bytes on the process that holds most."""

    parameters: int
    trainable: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def find_config(model: str) -> ModelConfig:
    """The configuration of a model folder, or of a released model by its name.

    Raises `InputError` where it is neither.
    """
    if (Path(model) / "config.json").is_file():
        return ModelConfig.from_pretrained(model)
    name = Path(model).name.lower()
    if name not in RELEASED:
        raise InputError(f"{model}: expected a model folder with config.json, or {', '.join(RELEASED)}")
    return RELEASED[name]


def plan_of(wanted: ModelArguments, values: Namespace, config: ModelConfig, processes: int | None) -> Plan:
    """The run that flags of `finetune` describe, of a model with this configuration.

    wanted, values: of `read_values`. processes: as many as the flags ask for where it is None. Raises
    `InputError` for flags that do not go together, and for those whose folders would have to be read.
    """
    for flag in ("ptuning_checkpoint", "lora_path"):
        if getattr(wanted, flag) is not None:
            raise InputError(
                f"--{flag}: say what is trained by --pre_seq_len or --lora True with --lora_rank"
            )
    tensor_degree = max(values.tensor_parallel_degree, 1)
    if processes is None:
        processes = tensor_degree * max(values.sharding_parallel_degree, 1)
    check_degree(tensor_degree, processes)
    data_degree = processes // tensor_degree
    length = wanted.prefix_length
    if length is not None:
        config = replace(config, pre_seq_len=length, prefix_projection=wanted.prefix_projection)
    if wanted.quantization_bit:
        bits, group_size = wanted.quantization_bit, wanted.quantization_group_size
        config = family_of(config).quantized_config(config, bits, group_size)
    lora = None
    if wanted.lora:
        targets = tuple(wanted.lora_target_modules or DEFAULT_TARGETS)
        lora = LoraConfig(wanted.lora_rank, wanted.lora_alpha, wanted.lora_dropout, targets)
    if config.quantization_bit and lora is None and length is None:
        raise InputError(
            f"quantization_bit {config.quantization_bit}: quantised weights are not trained: give "
            "--lora True or --pre_seq_len"
        )
    half = values.device != "cpu" and (values.fp16 or values.bf16)
    return Plan(
        config=config,
        lora=lora,
        trains_prefix=length is not None,
        dtype=stored_dtype(values) if half else "float32",
        half=half,
        rows=values.per_device_train_batch_size,
        tokens=longest_sample(values.src_length, values.tgt_length),
        recompute=values.recompute,
        tensor_degree=tensor_degree,
        data_degree=data_degree,
        stage=stage_of(values.sharding, values.sharding_parallel_degree, data_degree),
    )


def estimate(plan: Plan) -> Memory:
    """Raises `InputError` for adapters that fit no layer, and for degrees that cannot cut the model."""
    config = plan.config
    table = family_of(config).parameters(config)
    adapters = _adapters(plan)
    trained = {
        name: spec
        for name, spec in (adapters or table).items()
        if spec.dtype is None and (not plan.trains_prefix or name.startswith(PREFIX_ENCODER))
    }
    table |= adapters
    local = {name: _local_size(spec, plan.tensor_degree) for name, spec in table.items()}
    size = {name: _BYTES[_dtype(name, spec, plan, adapters)] for name, spec in table.items()}
    gradients = [local[name] * size[name] for name in trained]
    # Two float32 moments, two powers, and float32 master weights of half ones.
    states = [local[name] * (12 if size[name] == 2 else 8) + 8 for name in trained]
    gradient, state = sum(gradients), sum(states)
    if plan.stage:
        owners = owners_of(states, plan.data_degree)
        state = _largest(states, owners)
        gradient = _largest(gradients, owners) if plan.stage == 2 else gradient
    float_table = family_of(config).float_parameters(config)
    return Memory(
        parameters=_numbers({**float_table, **adapters}),
        trainable=_numbers(trained),
        weights=sum(local[name] * size[name] for name in table) + _rotary_table(config),
        gradients=gradient,
        optimizer=state,
        activations=activation_bytes(_step(plan, table)),
    )


def _adapters(plan: Plan) -> dict[str, ParameterSpec]:
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
            f"lora_target_modules {' '.join(plan.lora.targets)}: the model's linear layers are {known}"
        )
    return {
        f"{module}.lora_{part}.weight": spec
        for module in matched
        for part, spec in zip("AB", specs_of(module, table, plan.lora.rank_of(module)), strict=True)
    }


def _dtype(name: str, spec: ParameterSpec, plan: Plan, adapters: Mapping[str, ParameterSpec]) -> str:
    """What a parameter is held in: adapters and prefixes are float32 whatever the model is."""
    if name in adapters or name.startswith(PREFIX_ENCODER):
        return "float32"
    return spec.dtype or plan.dtype


def _step(plan: Plan, table: Mapping[str, ParameterSpec]) -> Step:
    config, degree = plan.config, plan.tensor_degree
    stored, width = _BYTES[plan.dtype], 2 if plan.half else 4
    copies = head = largest = 0
    if plan.trains_all:
        block = [spec for name, spec in table.items() if ".layers.0." in name]
        matrices = [_local_size(spec, degree) for spec in block if len(spec.shape) == 2]
        shared = [spec for spec in block if _is_shared(spec, degree)]
        copies = sum(_local_size(spec, degree) for spec in shared) * stored
        if width < stored:
            copies += sum(matrices) * width
        largest = max(matrices) * stored
        head = _local_size(ParameterSpec(*_vocabulary(table)), degree) * stored
    return Step(
        config=config,
        rows=plan.rows,
        tokens=plan.tokens,
        degree=degree,
        width=width,
        stream=width if stored == width else 4,
        trains_all=plan.trains_all,
        lora=plan.lora,
        recompute=plan.recompute,
        weight_copies=copies,
        head_gradient=head,
        block_gradient=largest,
    )


def _is_shared(spec: ParameterSpec, degree: int) -> bool:
    """Whether several processes hold the same rows: key/value heads that are fewer than these."""
    ranges = spec.sharding.shared_ranges(0, degree)
    return any(stop is not None and copies > 1 for _, stop, copies in ranges)


def _vocabulary(table: Mapping[str, ParameterSpec]) -> tuple:
    return next((spec.shape, spec.sharding) for spec in table.values() if spec.sharding.pad)


def _local_size(spec: ParameterSpec, degree: int) -> int:
    return prod(spec.sharding.local_shape(spec.shape, 0, degree))


def _numbers(table: Mapping[str, ParameterSpec]) -> int:
    return sum(prod(spec.shape) for spec in table.values())


def _largest(sizes: Iterable[int], owners: Iterable[int]) -> int:
    """The most that one owner has."""
    loads: dict[int, int] = {}
    for size, owner in zip(sizes, owners, strict=True):
        loads[owner] = loads.get(owner, 0) + size
    return max(loads.values())


def _rotary_table(config: ModelConfig) -> int:
    """Bytes of the cosines and sines of every position, float32, of half the channels of a head; of all in
    ChatGLM-6B without a second row of positions.
    """
    rows = 1 if config.family == "chatglm" and not config.position_encoding_2d else 2
    return 4 * config.max_sequence_length * (config.head_dim // rows)
