"""Short training runs: mixed precision, loss scaling, and the memory that runs take."""

from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import paddle

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig, released_configs
from paddle_glm.doctor.model_checks import check_half_precision, exact_products
from paddle_glm.doctor.random_models import random_model
from paddle_glm.doctor.registry import Context, Finding, NotApplicable, check
from paddle_glm.doctor.tiny_models import model_folder, tiny_config, training_samples
from paddle_glm.hardware import free_memory
from paddle_glm.models.base import CausalLM

_STEPS = 6
_FLAGS = f"--max_steps {_STEPS} --per_device_train_batch_size 2 --learning_rate 1e-3"
# Largest difference of a step's loss from that of the float32 run, relative to it. Rounding every layer's
# output and its gradient gives 5.4e-3 and 3.9e-4.
_LOSS = {"bf16": 2e-2, "fp16": 5e-3}
# Measured memory may exceed the estimate by so much: the allocator's rounding, operators' workspaces.
_MEMORY = 1.1
_PLANTED_AT = 2  # the step, from 0


def training_run() -> ModuleType:
    """`doctor.training_run`, which imports PaddleNLP; raises `NotApplicable` without it."""
    try:
        from paddle_glm.doctor import training_run
    except ModuleNotFoundError as error:
        if error.name != "paddlenlp":
            raise
        raise NotApplicable("paddlenlp is not installed, which finetuning needs") from error
    return training_run


def small_run(context: Context, flags: str = "", **observe: Any) -> Any:
    """The `TrainingRun` of six steps of the small ChatGLM2, of the same rows each time."""
    module = training_run()
    folder = model_folder(context.folder, "chatglm2")
    finetune_args = module.parse_flags(folder, f"{_FLAGS} --device {context.device} {flags}")[2]

    def build(args: Any) -> tuple[CausalLM, None]:
        return AutoModel.from_pretrained(folder, dtype=args.dtype, group=args.mesh.tensor), None

    with exact_products():
        return module.train(build, training_samples(tiny_config("chatglm2"), 8), finetune_args, **observe)


@check("training", "six steps in float32")
def float32_steps(context: Context) -> Finding:
    """The loss falls, also when blocks are recomputed: by the same numbers."""
    plain, recomputed = small_run(context), small_run(context, "--recompute True")
    found = Finding(facts={"losses": plain.losses, "norms of gradients": plain.norms})
    found.measure("last loss, of the first", plain.losses[-1] / plain.losses[0], 0.9)
    found.measure("losses, recomputed", _difference(recomputed.losses, plain.losses), 1e-4)
    return found


def mixed_precision(flag: str, level: str, context: Context) -> Finding:
    """The losses of float32, within half precision's errors."""
    check_half_precision("bfloat16" if flag == "bf16" else "float16")
    plain = small_run(context)
    half = small_run(context, f"--{flag} True --fp16_opt_level {level}", watch_weights=True)
    found = Finding(facts={"losses": half.losses, "loss scales": half.scales})
    found.measure("losses, to those of float32", _difference(half.losses, plain.losses), _LOSS[flag])
    found.measure("last loss, of the first", half.losses[-1] / half.losses[0], 0.9)
    return found


@check("training", "an infinite gradient at O2 in float16", devices=("gpu",))
def planted_infinity(context: Context) -> Finding:
    """The step is left out, the loss scale halves, and training goes on."""

    def plant(step: int, model: CausalLM) -> None:
        weight = next(one for one in model.parameters() if not one.stop_gradient)
        if step == _PLANTED_AT:
            handles.append(weight.register_hook(lambda gradient: gradient * float("inf")))
        elif handles:
            handles.pop().remove()

    handles: list[Any] = []
    run = small_run(context, "--fp16 True --fp16_opt_level O2", begin_step=plant, watch_weights=True)
    moved = np.abs(np.diff(np.stack(run.first_weights), axis=0)).max(axis=(1, 2)).tolist()
    found = Finding(facts={"losses": run.losses, "loss scales": run.scales, "moved by": moved})
    found.measure("weights moved in the step", moved[_PLANTED_AT], 0)
    found.measure("and in the next", moved[_PLANTED_AT + 1], 1e-7, at_least=True)
    found.measure("loss scale, of that before", run.scales[_PLANTED_AT + 1] / run.scales[_PLANTED_AT], 0.5)
    found.measure("last loss, of the first", run.losses[-1] / run.losses[0], 0.95)
    return found


def _difference(ours: list[float], theirs: list[float]) -> float:
    """The largest, relative."""
    return float(np.max(np.abs(np.array(ours) / np.array(theirs) - 1)))


def memory_and_speed(config: ModelConfig, flags: str, needed_gib: float, context: Context) -> Finding:
    """Tokens per second, and the peak of memory against `estimate-memory`."""
    from paddle_glm.training.memory_estimate import estimate_training_memory, plan_from_flags

    module = training_run()
    if context.device == "gpu":
        check_half_precision("bfloat16")
        if (free := free_memory(paddle.get_device()) / 2**30) < needed_gib:
            raise NotApplicable(f"{free:.1f} GiB are free: it takes {needed_gib}")
    parsed = module.parse_flags(context.folder / "random", f"--max_steps 5 --device {context.device} {flags}")
    model_args, data_args, finetune_args = parsed
    plan = plan_from_flags(model_args, data_args, finetune_args, config, 1)
    estimate = estimate_training_memory(plan)

    def build(args: Any) -> Any:
        from paddle_glm.training.adapter_setup import create_adapter

        model = random_model(plan.config, args.dtype)  # quantised if the flags say so
        return model, create_adapter(model, model_args, args.seed)

    rows = training_samples(config, 4 * plan.batch_size, plan.seq_length)
    run = module.train(build, rows, finetune_args)
    tokens = plan.batch_size * plan.seq_length
    found = Finding(facts={"seconds of each step": [round(second, 4) for second in run.seconds]})
    found.measure("speed", tokens / float(np.median(run.seconds[1:-1])), unit="tokens/s")
    found.measure("peak of memory", run.peak_bytes / 2**30, unit="GiB")
    found.measure("peak, of the estimate", run.peak_bytes / estimate.total, _MEMORY)
    return found


for _flag in _LOSS:
    for _level in ("O1", "O2"):
        check("training", f"--{_flag} at {_level}", devices=("gpu",))(partial(mixed_precision, _flag, _level))

_RELEASED = ModelConfig.from_dict(released_configs()["chatglm2-6b"])
_LENGTHS = {"cpu": "--src_length 64 --tgt_length 64", "gpu": "--src_length 512 --tgt_length 512"}
_SMALL = {
    "full": "",
    "full, recomputed": "--recompute True",
    "LoRA": "--lora True",
}
for _name, _method in _SMALL.items():
    check(
        "training",
        f"memory and speed of a small model, {_name}",
        devices=("cpu",),
        slow=_name != "full",
        environment={"PADDLE_GLM_KERNELS": "0"},  # what the estimate counts
    )(
        partial(
            memory_and_speed,
            replace(tiny_config("chatglm2"), num_layers=8),
            f"{_method} --per_device_train_batch_size 4 {_LENGTHS['cpu']}",
            1,
        )
    )
_O2 = "--bf16 True --fp16_opt_level O2 --per_device_train_batch_size 2"
_LARGE = {
    "LoRA, 4 layers": (4, "--lora True", 10),
    "LoRA, 4 layers, recomputed": (4, "--lora True --recompute True", 8),
    "LoRA beside int4, 28 layers, recomputed": (28, "--lora True --recompute True --quantization_bit 4", 12),
    "full, 2 layers": (2, "", 22),
}
for _name, (_layers, _method, _gib) in _LARGE.items():
    check(
        "training",
        f"memory and speed at ChatGLM2-6B's width, {_name}",
        devices=("gpu",),
        slow=True,
        seconds=300,
    )(
        partial(
            memory_and_speed,
            replace(_RELEASED, num_layers=_layers),
            f"{_method} {_O2} {_LENGTHS['gpu']}",
            _gib,
        )
    )
