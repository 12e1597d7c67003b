"""A short training run with `FinetuneTrainer`, observed step by step."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from paddle_glm.array_types import Array
from paddle_glm.data.datasets import Collator
from paddle_glm.models.base import CausalLM
from paddle_glm.peft.adapter import Adapter
from paddle_glm.training.command_line import parse_finetune_args
from paddle_glm.training.initialize import TrainerArguments, initialize_training
from paddle_glm.training.trainer import FinetuneTrainer

_COMMON = "--do_train --report_to none --disable_tqdm True --save_strategy no --logging_steps 1"


@dataclass
class TrainingRun:
    """losses, norms: of every step, of its gradient before clipping. seconds: from one step's begin to the
    next. first_weights: of the first trained parameter, float32, before every step. scales: of the loss."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first_weights: list[Array] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def parse_flags(folder: Any, flags: str) -> tuple[Any, Any, Any]:
    """The arguments of `finetune` for a model folder; nothing is written."""
    words = f"{_COMMON} {flags} --model_name_or_path {folder} --output_dir {folder}-run"
    return parse_finetune_args(words.split())


def train(
    build_model: Callable[[TrainerArguments], tuple[CausalLM, Adapter | None]],
    rows: Sequence[Any],
    finetune_args: Any,
    begin_step: Callable[[int, CausalLM], None] = lambda step, model: None,
    watch_weights: bool = False,
) -> TrainingRun:
    """Train; `begin_step` is called with the number of each step, from 0, before it.

    peak_bytes: the most that tensors of this process took on the device, the model's included.
    """
    observed = TrainingRun()
    args = initialize_training(finetune_args)
    device = paddle.get_device()
    gc.collect()  # what is freed later would count as less
    before = reset_peak(device)
    model, adapter = build_model(args)

    class Observed(FinetuneTrainer):
        def training_step(self, model: CausalLM, inputs: Any, step_control: int = 0) -> Any:
            if step_control % self.args.gradient_accumulation_steps == 0:
                synchronize(device)
                times.append(time.perf_counter())
                if watch_weights:
                    weight = self.trained_parameters[0]
                    observed.first_weights.append(weight.astype("float32").numpy().copy())
                    observed.scales.append(float(getattr(getattr(self, "scaler", None), "_scale", 1.0)))
                begin_step(len(times) - 1, model)
            return super().training_step(model, inputs, step_control)

        def log(self, logs: dict[str, float], **kwargs: Any) -> None:
            super().log(logs, **kwargs)
            if "loss" in logs:
                observed.losses.append(logs["loss"])
                observed.norms.append(logs["grad_norm"])

    times: list[float] = []
    trainer = Observed(
        model=model,
        args=args,
        data_collator=Collator(model.config.pad_token_id),
        tokenizer=_Padding(model.config.pad_token_id),
        train_dataset=rows,
        adapter=adapter,
    )
    trainer.train()
    synchronize(device)
    times.append(time.perf_counter())
    observed.seconds = np.diff(times).tolist()
    observed.peak_bytes = peak_bytes(device) - before
    return observed


@dataclass(frozen=True)
class _Padding:
    """All that the trainer asks of a tokenizer while nothing is saved."""

    pad_token_id: int


def synchronize(device: str) -> None:
    if device != "cpu":
        paddle.device.synchronize()


def reset_peak(device: str) -> int:
    """Start to observe the peak of `peak_bytes`; returns what is allocated now."""
    if device != "cpu":
        paddle.device.cuda.reset_max_memory_allocated(device)
        return int(paddle.device.cuda.memory_allocated(device))
    core = paddle.base.core
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    return int(core.host_memory_stat_current_value("Allocated", 0))


def peak_bytes(device: str) -> int:
    """The most bytes that Paddle's allocator handed out since `reset_peak`."""
    if device != "cpu":
        return int(paddle.device.cuda.max_memory_allocated(device))
    return int(paddle.base.core.host_memory_stat_peak_value("Allocated", 0))
