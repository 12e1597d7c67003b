"""PaddleNLP's Trainer with this package's model, samplers, parallelism and checkpoints.

The Trainer's loop, callbacks and schedules are used unchanged. Replaced are its parallel wrappers and
optimizer (they need fleet, whose groups and gradient clipping do not fit gloo and tensor-parallel ranks that
read the same rows), its checkpoints (pickles, not written atomically) and its evaluation (it gathers logits).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddlenlp.trainer import Trainer
from paddlenlp.trainer.trainer_callback import TrainerControl, TrainerState
from paddlenlp.trainer.trainer_utils import EvalLoopOutput, TrainOutput
from paddlenlp.utils.log import logger

from paddle_glm.chat_template import IGNORE_INDEX
from paddle_glm.evaluation.token_metrics import evaluate_tokens
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.rng import seed_group
from paddle_glm.peft.adapter import Adapter
from paddle_glm.training import checkpointing
from paddle_glm.training.batch_loading import LoadingCollator, ReportingDataset, raise_loading_error
from paddle_glm.training.callbacks import LogFileCallback, ThroughputCallback, VisualDLCallback
from paddle_glm.training.epoch_shape import EpochShape
from paddle_glm.training.failures import FiniteLosses
from paddle_glm.training.gradients import GradientAverager, HybridParallelClipGrad, HybridParallelGradScaler
from paddle_glm.training.initialize import TrainerArguments
from paddle_glm.training.loss_curve import LOG_FILE, read_log_records
from paddle_glm.training.optimizer import FusedAdamW
from paddle_glm.training.output_dir import CHECKPOINT_PREFIX, RunFolder
from paddle_glm.training.sampler import EvalSampler, TrainSampler
from paddle_glm.training.sharded_optimizer import GradientReducer, OptimizerStatePartition, ShardedAdamW
from paddle_glm.training.sharded_parameters import ShardedParameters, shardable_parameters

Batch = Mapping[str, Tensor]
# Distance between the seeds of data-parallel ranks; above any tensor-parallel degree.
_SEED_STRIDE = 10_000


class FinetuneTrainer(Trainer):
    """Trains a `CausalLM` with data and tensor parallelism.

    generation_metrics: called at every evaluation, on every rank, with the rows and a limit of batches per
        rank (-1: all); returns metrics of generated answers (`rouge-1`, ...). None: no such metrics.
    adapter: trained and saved instead of the model's own parameters; None: the model is trained.
    run_folder: output_dir with its checkpoints; None: args.output_dir, starting anew.
    """

    args: TrainerArguments
    model: CausalLM
    control: TrainerControl

    def __init__(
        self,
        model: CausalLM,
        args: TrainerArguments,
        data_collator: Callable[[list[Any]], dict[str, Any]],
        tokenizer: Any,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        generation_metrics: Callable[[Any, int], dict[str, float]] | None = None,
        adapter: Adapter | None = None,
        run_folder: RunFolder | None = None,
    ) -> None:
        self.adapter = adapter
        self.run_folder = run_folder or RunFolder(Path(args.output_dir))
        # Once: reading all parameters takes quantised ones out of the kernels' order.
        self.trained_parameters = [one for one in model.parameters() if not one.stop_gradient]
        self.state_partition = (
            OptimizerStatePartition(self.trained_parameters, args.mesh.data) if args.sharding_stage else None
        )
        self.gradient_reducer: GradientReducer | GradientAverager
        if self.state_partition is not None and args.sharding_stage >= 2:
            self.gradient_reducer = GradientReducer(self.state_partition)
        else:
            self.gradient_reducer = GradientAverager(self.trained_parameters, args.mesh.data)
        self.throughput = ThroughputCallback(args.mesh.data)
        callbacks = [self.throughput, LogFileCallback()] + ([VisualDLCallback()] if args.visualdl else [])
        super().__init__(
            model=model,
            args=args,
            data_collator=LoadingCollator(data_collator),
            train_dataset=None if train_dataset is None else ReportingDataset(train_dataset),
            eval_dataset=eval_dataset,
            tokenizer=tokenizer,
            callbacks=callbacks,
        )
        self.generation_metrics = generation_metrics
        self.epoch_shape = EpochShape(0, 0)  # known with the sampler
        self._resume_checkpoint: Path | None = None
        self._rng_pending = False
        self._last_evaluation: tuple[int, dict[str, float]] | None = None
        self.grad_clip: HybridParallelClipGrad | None = None
        self.finite_losses = FiniteLosses()
        self._seed()
        if args.recompute:
            model.enable_recompute(args.recompute_granularity)
        if args.shares_tokens:
            model.enable_sequence_parallel()
        self.sharded_parameters: ShardedParameters | None = None
        if self.state_partition is not None and args.sharding_stage == 3:
            sharded = shardable_parameters(model, () if adapter is None else adapter.tensors)
            self.sharded_parameters = ShardedParameters(model, list(sharded.values()), self.state_partition)

    def _seed(self) -> None:
        """Seed dropout: equal for replicated activations of tensor-parallel ranks, not between data ranks."""
        seed = self.args.seed + _SEED_STRIDE * self.args.mesh.data.rank
        random.seed(seed)
        np.random.seed(seed)
        seed_group(seed, self.args.mesh.tensor)

    # The loop.

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs: Any) -> Any:
        """Train; a run that resumes from a checkpoint of as many processes continues bit for bit."""
        self._resume_checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._rng_pending = self._resume_checkpoint is not None
        # The mean loss at the end is over the steps of this process, not of those before the resume.
        self._skip_global_steps = (
            checkpointing.checkpoint_step(self._resume_checkpoint) if self._resume_checkpoint else 0
        )
        wants_best, self.args.load_best_model_at_end = self.args.load_best_model_at_end, False
        result = super().train(str(self._resume_checkpoint) if self._resume_checkpoint else None, **kwargs)
        self.args.load_best_model_at_end = wants_best
        if wants_best and self.state.best_model_checkpoint:
            self._load_best()
        return result

    def _load_best(self) -> None:
        """Load the best checkpoint's weights; the final evaluation is repeated unless it is the last one."""
        folder = Path(self.args.output_dir) / Path(self.state.best_model_checkpoint).name
        logger.info(f"loading the best model: {folder} ({self.state.best_metric})")
        checkpointing.load_weights(folder, self.model, self.adapter)
        if checkpointing.checkpoint_step(folder) != self.state.global_step:
            self._last_evaluation = None

    def _inner_training_loop(
        self, args: Any, model: Any, train: Any, length: Any, max_steps: int, *rest: Any
    ) -> Any:
        steps_per_epoch = max(length // args.gradient_accumulation_steps, 1)
        self.run_folder.check_checkpoint_paths(
            lambda step: self._skip_global_steps < step and args.saves_at(step, max_steps, steps_per_epoch)
        )
        checkpointing.barrier()
        if paddle.distributed.get_rank() == 0:
            self.run_folder.start()
        checkpointing.barrier()
        if self._resume_checkpoint is not None and self._skip_global_steps >= max_steps:
            # The Trainer would train one step more before it stops.
            logger.info(f"{self._resume_checkpoint} has all {max_steps} steps: nothing left to train")
            self.state = TrainerState.load_from_json(
                str(self._resume_checkpoint / checkpointing.TRAINER_STATE)
            )
            self.is_in_train = False
            return TrainOutput(self.state.global_step, 0.0, {})
        return super()._inner_training_loop(args, model, train, length, max_steps, *rest)

    def training_step(self, model: CausalLM, inputs: Batch, step_control: int = 0) -> Tensor:
        """Forward and backward of one batch; returns its loss / accumulation steps, a detached scalar.

        Raises `InputError` if its rows could not be read.
        """
        raise_loading_error(inputs)
        if self._rng_pending and self._resume_checkpoint is not None:
            checkpointing.load_rng_state(self._resume_checkpoint, self.args.mesh)
            self._rng_pending = False
        self.throughput.add_tokens((inputs["input_ids"] != self.tokenizer.pad_token_id).sum())
        is_last = (step_control + 1) % self.args.gradient_accumulation_steps == 0
        self.gradient_reducer.begin_backward(is_last)
        loss: Tensor = super().training_step(model, inputs)
        self.finite_losses.add(loss, self.state.global_step + 1)
        self.gradient_reducer.finish_backward()
        if self.sharded_parameters is not None:
            self.sharded_parameters.finish_backward()
        return loss

    def _check_loss_valid(self, loss: Tensor) -> None:
        """The Trainer asks in every step, which would wait for a GPU; see `_maybe_log_save_evaluate`."""

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Raises `NonFiniteError` before anything is written. Steps of --fp16 are skipped instead."""
        control = self.control
        if (control.should_log or control.should_save or control.should_evaluate) and not self.args.fp16:
            norm = None if self.grad_clip is None else self.grad_clip.norm
            self.finite_losses.check(norm, self.state.global_step)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def compute_loss(self, model: CausalLM, inputs: Batch, return_outputs: bool = False) -> Any:
        output = model(**inputs, return_logits=return_outputs)
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs and self.grad_clip is not None and self.grad_clip.norm is not None:
            logs["grad_norm"] = float(self.grad_clip.norm)
        super().log(logs, **kwargs)

    # Model and optimizer.

    def _wrap_model(self, model: CausalLM, training: bool = True) -> CausalLM:
        return model  # already sharded; it communicates itself

    def _wrap_amp_model(self, args: TrainerArguments, model: CausalLM) -> None:
        """Half precision on a GPU; at O2 the weights are half precision and need no autocast."""
        self.amp_dtype = "float16" if args.fp16 else "bfloat16"
        self.enable_autocast_context_manager = args.fp16_opt_level != "O2"
        self.do_grad_scaling = args.fp16
        self.scaler = HybridParallelGradScaler(args.scale_loss, args.mesh.tensor, self._sharding_group())

    def create_optimizer(self, lr_scheduler: Any = None) -> Any:
        """AdamW over the trained parameters; with a sharding stage, over those that this rank owns.

        Norms and biases are not decayed; gradients are clipped by `HybridParallelClipGrad`.
        """
        # AdamW takes the learning rate's dtype from its first parameter, which may be a frozen int8 weight.
        trained = {name: one for name, one in self.model.named_parameters() if not one.stop_gradient}
        names = {parameter.name: name for name, parameter in trained.items()}
        decayed = {key for key, name in names.items() if not any(part in name for part in ("bias", "norm"))}
        if self.args.max_grad_norm > 0:
            specs = checkpointing.parameter_specs(self.model, self.adapter)
            mesh = self.args.mesh
            self.grad_clip = HybridParallelClipGrad(
                self.args.max_grad_norm, specs, names, mesh.tensor, self._sharding_group()
            )
        _, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
        options |= {
            "learning_rate": lr_scheduler or self.lr_scheduler,
            "apply_decay_param_fun": decayed.__contains__,
            "weight_decay": self.args.weight_decay,
            "grad_clip": self.grad_clip,
            "multi_precision": self.args.dtype != "float32",
            "offload": self.args.offloads,
        }
        if self.state_partition is not None:
            # At stage 3 a model's parameters are sent when they are needed; an adapter's are not sharded.
            broadcasts = self.sharded_parameters is None or self.adapter is not None
            self.optimizer = ShardedAdamW(self.state_partition, broadcasts, **options)
        else:
            self.optimizer = FusedAdamW(parameters=list(trained.values()), **options)
        return self.optimizer

    def _sharding_group(self) -> ProcessGroup:
        """The ranks over which the optimizer state is partitioned."""
        return SINGLE_PROCESS if self.state_partition is None else self.state_partition.group

    # Data.

    def _get_train_sampler(self) -> TrainSampler:
        args = self.args
        sampler = TrainSampler(
            self.train_dataset,
            args.per_device_train_batch_size,
            num_replicas=args.dataset_world_size,
            rank=args.dataset_rank,
            seed=args.seed,
            accumulation_steps=args.gradient_accumulation_steps,
            drop_last=args.dataloader_drop_last,
            lengths=self.train_dataset.lengths if args.group_by_length else None,
        )
        accumulation = min(args.gradient_accumulation_steps, len(sampler))
        self.epoch_shape = EpochShape(
            sampler.batch_size * accumulation * args.dataset_world_size,
            len(sampler) // accumulation,
            sampler.batch_size if args.group_by_length else None,
        )
        if self._resume_checkpoint is not None:
            written = checkpointing.read_epoch_shape(self._resume_checkpoint)
            self.epoch_shape.check_continues(
                written, self._resume_checkpoint, sampler.batch_size, args.dataset_world_size
            )
            step = checkpointing.checkpoint_step(self._resume_checkpoint)
            epoch, done = divmod(step, self.epoch_shape.steps_per_epoch)
            sampler.skip_batches(epoch, done * accumulation)
        return sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> EvalSampler:
        return self._eval_sampler_of(self.args.dataset_rank, eval_dataset)

    def _eval_sampler_of(self, rank: int, eval_dataset: Any) -> EvalSampler:
        args = self.args
        return EvalSampler(
            eval_dataset,
            args.per_device_eval_batch_size,
            args.dataset_world_size,
            rank,
            args.max_evaluate_steps,
        )

    # Evaluation.

    def evaluation_loop(
        self, dataloader: Any, description: str, metric_key_prefix: str = "eval", **_: Any
    ) -> EvalLoopOutput:
        """Loss, perplexity and token accuracy over all rows, and the metrics of generated answers."""
        self.callback_handler.eval_dataloader = dataloader
        self.model.eval()
        batches = self._with_progress(self._in_step(dataloader))
        metrics = {}
        if len(dataloader.dataset):
            metrics = evaluate_tokens(self.model, batches, self.args.mesh.data)
        if self.generation_metrics is not None:
            with nullcontext() if self.sharded_parameters is None else self.sharded_parameters.whole():
                metrics.update(self.generation_metrics(dataloader.dataset, self.args.max_evaluate_steps))
        self.model.train()
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        rows = dataloader.dataset
        return EvalLoopOutput(
            None, None, named, len(rows) if rows.generation is None else len(rows.generation)
        )

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        metrics: dict[str, float] = super().evaluate(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if metric_key_prefix == "eval":
            self._last_evaluation = (self.state.global_step, metrics)
        return metrics

    def final_metrics(self) -> dict[str, float]:
        """The metrics of the present weights; evaluates only if the last evaluation was of others."""
        if self._last_evaluation is not None and self._last_evaluation[0] == self.state.global_step:
            return self._last_evaluation[1]
        return self.evaluate()

    def _in_step(self, dataloader: Any) -> Iterator[Batch]:
        """The batches; at stage 3 as many as another rank has, with one of which nothing counts."""
        yield from dataloader
        if self.sharded_parameters is None:
            return
        rows = dataloader.dataset
        if len(dataloader) < len(self._eval_sampler_of(0, rows)):
            batch = self.data_collator([rows[0]])
            uncounted = {**batch, "labels": np.full_like(batch["labels"], IGNORE_INDEX)}
            yield {name: paddle.to_tensor(values) for name, values in uncounted.items()}

    def _with_progress(self, dataloader: Any) -> Any:
        for batch in dataloader:
            yield batch
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    # Checkpoints.

    def _save_checkpoint(self, model: CausalLM, metrics: Mapping[str, float] | None = None) -> None:
        folder = self.run_folder.path / f"{CHECKPOINT_PREFIX}{self.state.global_step}"
        self._update_best_checkpoint(folder, metrics)
        checkpointing.save_training_checkpoint(folder, self)
        if paddle.distributed.get_rank() == 0:
            self.run_folder.remove_superseded()
            self.run_folder.rotate_checkpoints(self.args.save_total_limit, self.state.best_model_checkpoint)

    def _update_best_checkpoint(self, folder: Path, metrics: Mapping[str, float] | None) -> None:
        wanted = self.args.metric_for_best_model
        if metrics is None or wanted is None:
            return
        name = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
        value, best = metrics[name], self.state.best_metric
        better = best is None or (value > best if self.args.greater_is_better else value < best)
        if better:
            self.state.best_metric, self.state.best_model_checkpoint = value, str(folder)

    def save_model(self, output_dir: str | None = None, merge_tensor_parallel: bool = False) -> None:
        """Save the trained weights to output_dir; it is complete when its manifest is there."""
        folder, args = Path(output_dir or self.args.output_dir), self.args
        checkpointing.save_final_model(
            folder,
            self.model,
            self.tokenizer,
            args.mesh,
            self.adapter,
            args.save_format,
            self.sharded_parameters,
        )
        if paddle.distributed.get_rank() == 0 and folder == self.run_folder.path:
            self.run_folder.remove_superseded()

    def save_state(self) -> None:
        """Write `trainer_state.json` with the whole log, also that of the runs that this one resumes."""
        log = Path(self.args.output_dir) / LOG_FILE
        self.state.log_history = read_log_records(log) if log.is_file() else []
        super().save_state()

    def _load_from_checkpoint(self, resume_from_checkpoint: str | None = None) -> None:
        if resume_from_checkpoint:
            checkpointing.load_weights(Path(resume_from_checkpoint), self.model, self.adapter)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint:
            checkpointing.load_optimizer_and_schedule(Path(checkpoint), self)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Done in the first training step: the Trainer skips it when a resume starts with a new epoch."""
