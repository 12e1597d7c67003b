"""Training checkpoints: what resumes a run bit for bit, written atomically.

A `checkpoint-N` folder holds the weights (hub layout from one process, shards from several), the optimizer
state per tensor-parallel rank, the random state per process, the learning rate schedule and the Trainer's
state. All files are safetensors or JSON: resuming never unpickles. Other numbers of processes read all of it
but the random state.
"""

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddlenlp.trainer.trainer_callback import TrainerState
from paddlenlp.utils.log import logger

from paddle_glm.checkpoint import AtomicSave, open_checkpoint, save_model
from paddle_glm.checkpoint.paddlenlp import set_tokenizer_class
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM, lazy_tensors
from paddle_glm.models.family import family_of
from paddle_glm.numpy_interop import writable_array
from paddle_glm.parallel import SINGLE_PROCESS, Mesh, world_size
from paddle_glm.peft.adapter import Adapter
from paddle_glm.sharding import ParameterSpec
from paddle_glm.training.adapter_setup import load_adapter_weights
from paddle_glm.training.epoch_shape import EpochShape
from paddle_glm.training.optimizer_files import (
    StoredOptimizerState,
    optimizer_tensors,
    parameter_name,
    write_optimizer_state,
)
from paddle_glm.training.output_dir import (
    SCHEDULE_FILE,
    STAGING_FOLDER,
    publish_final_model,
    rename_obstructing,
)
from paddle_glm.training.rng import rng_state, set_rng_state
from paddle_glm.training.sharded_parameters import ShardedParameters

TRAINER_STATE = "trainer_state.json"


def barrier() -> None:
    """Wait for all processes of the run."""
    if world_size() > 1:
        dist.barrier()


def parameter_specs(model: CausalLM, adapter: Adapter | None) -> dict[str, ParameterSpec]:
    """{hub name: full shape and sharding} of the model's parameters and the adapter's."""
    return {
        **family_of(model.config).parameters(model.config),
        **({} if adapter is None else adapter.specs),
    }


def save_weights(
    folder: Path,
    model: CausalLM,
    tokenizer: Any,
    mesh: Mesh,
    adapter: Adapter | None,
    file_format: str = "safetensors",
    sharded: ShardedParameters | None = None,
) -> None:
    """Write the shards of tensor-parallel ranks (one: the full weights), configuration and tokenizer.

    A collective call: data-parallel rank 0 writes, the others send it what it does not hold. A trained
    adapter is written instead of all that, unsharded and in its own format.
    """
    if mesh.data.rank != 0:
        if sharded is not None and adapter is None:
            sharded.lend()
        return
    if adapter is not None:
        adapter.save(folder)
        return
    config, group = replace(model.config, dtype=model.dtype), model.group
    with nullcontext() if sharded is None else sharded.borrowing() as read:
        tensors = lazy_tensors(model.named_parameters(), *([read] if read else []))
        save_model(folder, config, tensors, group.rank, group.degree, file_format)
    if group.rank == 0:
        tokenizer.save_pretrained(folder)
        if file_format == "pdparams":
            set_tokenizer_class(folder, config.family, for_paddlenlp=True)


def load_weights(folder: Path, model: CausalLM, adapter: Adapter | None) -> None:
    """Load, in place, the model from a folder of any tensor-parallel degree, or the adapter only."""
    if adapter is not None:
        load_adapter_weights(folder, adapter)
        return
    model.load_weights(open_checkpoint(folder))


def save_final_model(
    output_dir: Path,
    model: CausalLM,
    tokenizer: Any,
    mesh: Mesh,
    adapter: Adapter | None = None,
    file_format: str = "safetensors",
    sharded: ShardedParameters | None = None,
) -> None:
    """Write the trained model into output_dir, beside its checkpoints, replacing an earlier run's.

    Files are written to a staging folder and moved one by one, the manifest last: without it the folder is
    not complete. Files that no run wrote are kept.
    """
    save = _begin_save_on_all_ranks(output_dir / STAGING_FOLDER)
    save_weights(save.path, model, tokenizer, mesh, adapter, file_format, sharded)
    barrier()
    if dist.get_rank() == 0:
        save.commit()
        publish_final_model(output_dir)
    barrier()


def save_training_checkpoint(folder: Path, trainer: Any) -> None:
    """Write a checkpoint together with all other ranks; `trainer` is a `FinetuneTrainer`."""
    save = _begin_save_on_all_ranks(folder)
    temporary = save.path
    mesh: Mesh = trainer.args.mesh
    sharded = trainer.sharded_parameters
    save_weights(temporary, trainer.model, trainer.tokenizer, mesh, trainer.adapter, sharded=sharded)
    owners = SINGLE_PROCESS if trainer.state_partition is None else mesh.data
    if mesh.data.rank == 0 or owners.degree > 1:
        state = dict(optimizer_tensors(trainer.optimizer, trainer.model))
        write_optimizer_state(temporary, state, mesh, owners)
    _write_json(temporary / f"rng-{dist.get_rank():05d}.json", rng_state())
    if dist.get_rank() == 0:
        trainer.state.save_to_json(str(temporary / TRAINER_STATE))
        _write_json(temporary / SCHEDULE_FILE, _schedule_state(trainer))
        _write_json(temporary / "training_args.json", trainer.args.to_sanitized_dict())
    barrier()
    if dist.get_rank() == 0:
        save.commit()
    barrier()


def load_optimizer_and_schedule(folder: Path, trainer: Any) -> None:
    """Restore optimizer, schedule and loss scaler, from a checkpoint of any number of processes.

    Raises `InputError` where it is of other parameters.
    """
    schedule = _read_json(folder / SCHEDULE_FILE)
    # All sharding stages and degrees can read each other's files: each rank takes what it owns.
    stored = StoredOptimizerState(
        folder, parameter_specs(trainer.model, trainer.adapter), trainer.args.mesh.tensor
    )
    wanted = dict(optimizer_tensors(trainer.optimizer, trainer.model))
    trained = {name for name, parameter in trainer.model.named_parameters() if not parameter.stop_gradient}
    others = trained - {parameter_name(name) for name in wanted}  # owned by other ranks
    odd = sorted(name for name in stored.names ^ wanted.keys() if parameter_name(name) not in others)
    if odd:
        raise InputError(
            f"{folder} holds the state of another optimizer or model ({', '.join(odd[:5])}): resume with the "
            "flags that it was written with, or give another --output_dir"
        )
    for name, tensor in wanted.items():
        with writable_array(tensor) as array:  # offloaded state stays where it is
            array[...] = stored.read(name)
    trainer.lr_scheduler.set_state_dict(schedule["scheduler"])
    if trainer.do_grad_scaling:
        scaler = schedule["scaler"]
        trainer.scaler.load_state_dict({**scaler, "scale": np.array(scaler["scale"], dtype=np.float32)})


def load_rng_state(folder: Path, mesh: Mesh) -> None:
    """Restore this process's random state, unless the checkpoint is of other numbers of processes."""
    schedule = _read_json(folder / SCHEDULE_FILE)
    written = (schedule["tensor_parallel_degree"], schedule["data_parallel_degree"])
    if written == (mesh.tensor.degree, mesh.data.degree):
        set_rng_state(_read_json(folder / f"rng-{dist.get_rank():05d}.json"))
    elif dist.get_rank() == 0:
        logger.info(
            f"{folder} was written with tensor_parallel_degree {written[0]} and {written[1]} data-parallel "
            f"processes, this run has {mesh.tensor.degree} and {mesh.data.degree}: dropout starts from --seed"
        )


def read_epoch_shape(folder: Path) -> EpochShape:
    """How the run that wrote a checkpoint divided its rows into optimizer steps."""
    return EpochShape(**_read_json(folder / SCHEDULE_FILE)["epoch_shape"])


def checkpoint_step(folder: Path) -> int:
    """The number of optimizer steps at a checkpoint."""
    return int(TrainerState.load_from_json(str(folder / TRAINER_STATE)).global_step)


def _begin_save_on_all_ranks(folder: Path) -> AtomicSave:
    """The save of `folder`: rank 0 makes its temporary folder, every rank may add files."""
    save = AtomicSave(folder)
    if dist.get_rank() == 0:
        if folder.is_dir():
            rename_obstructing(folder)
        save.begin(overwrite=True)
    barrier()
    return save


def _schedule_state(trainer: Any) -> dict[str, Any]:
    mesh: Mesh = trainer.args.mesh
    scaler = trainer.scaler.state_dict() if trainer.do_grad_scaling else None
    return {
        "run": trainer.run_folder.run_number,
        "tensor_parallel_degree": mesh.tensor.degree,
        "data_parallel_degree": mesh.data.degree,
        "epoch_shape": asdict(trainer.epoch_shape),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": scaler and {**scaler, "scale": np.asarray(scaler["scale"]).tolist()},
    }


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, default=_to_json) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    """NumPy and Paddle values of state dicts as Python's."""
    if isinstance(value, (np.generic, np.ndarray, paddle.Tensor)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
