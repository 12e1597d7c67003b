"""The start of a run: choose the device, join the process groups, make the Trainer's arguments."""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.trainer.trainer_utils import IntervalStrategy
from paddlenlp.utils.log import logger as paddlenlp_logger

from paddle_glm.allocator import keep_freed_memory
from paddle_glm.errors import InputError
from paddle_glm.hardware import use_device
from paddle_glm.parallel import Mesh, check_degree, init_parallel, world_size
from paddle_glm.training.arguments import FinetuneArguments, parameter_dtype, parse_sharding_stage

logger = logging.getLogger(__name__)


@dataclass(init=False)
class TrainerArguments(TrainingArguments):
    """`FinetuneArguments` as PaddleNLP's Trainer reads them; made by `initialize_training`.

    mesh: this process's tensor-parallel and data-parallel groups.
    flags: what the values were made from.
    shares_tokens, recompute_granularity: of `--sequence_parallel` and `--recompute_granularity`.
    sharding_stage: 0 to 3 of ZeRO over the data-parallel group (`training.sharded_optimizer` and
        `training.sharded_parameters`).
    """

    save_format: str
    group_by_length: bool

    def __init__(self, args: FinetuneArguments, device: str, mesh: Mesh, sharding_stage: int) -> None:
        """device: "cpu" or "gpu". Raises `InputError` for values that PaddleNLP refuses."""
        self.flags, self.mesh, self.sharding_stage = args, mesh, sharding_stage
        self.save_format, self.group_by_length = args.save_format, args.group_by_length
        self.shares_tokens, self.recompute_granularity = args.sequence_parallel, args.recompute_granularity
        self.offloads = args.offload_optim
        self.visualdl = args.report_to == "visualdl"
        known = {item.name for item in fields(TrainingArguments)}
        values = {item.name: getattr(args, item.name) for item in fields(args) if item.name in known}
        try:
            super().__init__(**{**values, "device": device, **_adjusted_values(args, device)})
        except ValueError as error:
            raise InputError(str(error)) from error
        self.tensor_parallel_degree = mesh.tensor.degree
        if _evaluates_at_end_only(args):
            self.evaluation_strategy = IntervalStrategy.NO

    @property
    def dtype(self) -> str:
        """Dtype of the weights: half precision at O2, with float32 master weights.

        "auto" (fitting folder and device) where nothing is trained and no precision is asked for.
        """
        return parameter_dtype(self) if self.do_train or self.fp16 or self.bf16 else "auto"

    def saves_at(self, step: int, max_steps: int, steps_per_epoch: int) -> bool:
        """Whether a run saves a checkpoint at a step, by the rules of the Trainer's callbacks."""
        if step > max_steps:
            return False
        if self.save_strategy == IntervalStrategy.EPOCH:
            return step % steps_per_epoch == 0 or step == max_steps
        every = self.save_steps if self.save_strategy == IntervalStrategy.STEPS else 0
        return every > 0 and step % every == 0

    @property
    def dataset_rank(self) -> int:
        """Which share of the rows this process reads: tensor-parallel processes read the same."""
        return self.mesh.data.rank

    @property
    def dataset_world_size(self) -> int:
        return self.mesh.data.degree


def initialize_training(args: FinetuneArguments) -> TrainerArguments:
    """Choose the device, join the launcher's processes, and return the Trainer's arguments.

    Call it once per process, before anything is computed. It also sets PaddleNLP's log level. Raises
    `InputError` for a device that is missing, and for degrees that do not fit the number of processes.
    """
    paddlenlp_logger.set_level("INFO")  # its default prints every argument and property at the start
    tensor_parallel_degree = 1 if args.tensor_parallel_degree == -1 else args.tensor_parallel_degree
    check_degree(tensor_parallel_degree, world_size())
    data_parallel_degree = world_size() // tensor_parallel_degree
    stage = parse_sharding_stage(args.sharding, args.sharding_parallel_degree, data_parallel_degree)
    device = _use_device(args.device)
    mesh = init_parallel(tensor_parallel_degree)
    if paddle.distributed.get_rank() == 0:
        _warn_of_ineffective_flags(args, device, data_parallel_degree)
    return TrainerArguments(args, device, mesh, stage if data_parallel_degree > 1 else 0)


def _use_device(wanted: str | None) -> str:
    """`cpu` or `gpu`, set as Paddle's current device; raises `InputError` where it is missing."""
    device = use_device(wanted or "auto").partition(":")[0]
    if device == "cpu":
        # Strided views cost more than they save on CPUs: steps are 12 to 24 % faster without.
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        # Else the kernel clears the pages of every activation anew: 4 to 8 % of a step.
        keep_freed_memory()
    return device


def _warn_of_ineffective_flags(args: FinetuneArguments, device: str, data_parallel_degree: int) -> None:
    if device == "cpu" and (args.fp16 or args.bf16):
        flag = "fp16" if args.fp16 else "bf16"
        logger.warning(f"--{flag}: Paddle has no CPU kernels for it, training in float32")
    if args.sharding and data_parallel_degree == 1:
        logger.warning(f"--sharding {args.sharding} has no effect with one data-parallel process")


def _evaluates_at_end_only(args: FinetuneArguments) -> bool:
    return args.do_eval and args.evaluation_strategy == "no"


def _adjusted_values(args: FinetuneArguments, device: str) -> dict[str, Any]:
    """Values for PaddleNLP's Trainer that differ from the flags'."""
    strategy = args.evaluation_strategy
    if _evaluates_at_end_only(args):
        strategy = "epoch"  # PaddleNLP reads "no" as "steps" here
    elif strategy is None:
        strategy = "steps" if args.do_eval else "no"
    greater_is_better = args.greater_is_better
    if greater_is_better is None and (args.metric_for_best_model or "").endswith("perplexity"):
        greater_is_better = False  # PaddleNLP knows of the loss alone
    half = {"fp16": False, "bf16": False} if device == "cpu" else {}  # no kernels there
    return {
        **half,
        "evaluation_strategy": strategy,
        "greater_is_better": greater_is_better,
        "logging_dir": args.logging_dir or str(Path(args.output_dir).expanduser() / "runs"),
        # PaddleNLP's own VisualDL callback logs booleans as hyperparameters, which VisualDL refuses.
        "report_to": "none",
        # PaddleNLP would start fleet for a degree above 1, whose groups, wrappers and clipping do not fit
        # gloo and shared rows: it sees data parallelism, and our trainer does the rest by `mesh`.
        **{"sharding": "", "sharding_parallel_degree": -1, "tensor_parallel_degree": -1},
        # Nor does it do what our layers and optimizer do themselves.
        **{"sequence_parallel": False, "offload_optim": False},
    }
