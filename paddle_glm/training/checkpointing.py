"""Training checkpoints: what resumes a run bit for bit, written atomically.

A `checkpoint-N` folder holds the weights (hub layout from one process, shards from several), the optimizer
state per tensor-parallel rank, the random state per process, the learning rate schedule and the Trainer's
state. All files are safetensors or JSON: resuming never unpickles.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor
from paddle.base import framework
from paddlenlp.trainer.trainer_callback import TrainerState

from paddle_glm.array_types import Array
from paddle_glm.checkpoint import AtomicSave, open_checkpoint, save_model
from paddle_glm.checkpoint.paddlenlp import set_tokenizer_class
from paddle_glm.checkpoint.safetensors_file import open_safetensors, write_safetensors
from paddle_glm.errors import InputError
from paddle_glm.models.base import CausalLM, lazy_tensors
from paddle_glm.numpy_interop import from_numpy, paddle_dtype_name
from paddle_glm.parallel import SINGLE_PROCESS, Mesh, ProcessGroup, world_size
from paddle_glm.peft.adapter import Adapter
from paddle_glm.training.adapter_setup import load_adapter_weights
from paddle_glm.training.output_dir import (
    SCHEDULE_FILE,
    STAGING_FOLDER,
    publish_final_model,
    rename_obstructing,
)
from paddle_glm.training.rng import rng_state, set_rng_state

TRAINER_STATE = "trainer_state.json"


def barrier() -> None:
    """Wait for all processes of the run."""
    if world_size() > 1:
        dist.barrier()


def save_weights(
    folder: Path, model: CausalLM, tokenizer: Any, adapter: Adapter | None, file_format: str = "safetensors"
) -> None:
    """Write this rank's shard (one process: the full weights); rank 0 adds configuration and tokenizer.

    A trained adapter is written instead of all that, unsharded and in its own format.
    """
    if adapter is not None:
        adapter.save(folder)
        return
    config, group = replace(model.config, dtype=model.dtype), model.group
    save_model(folder, config, lazy_tensors(model.named_parameters()), group.rank, group.degree, file_format)
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
) -> None:
    """Write the trained model into output_dir, beside its checkpoints, replacing an earlier run's.

    Files are written to a staging folder and moved one by one, the manifest last: without it the folder is
    not complete. Files that no run wrote are kept.
    """
    save = _begin_save_on_all_ranks(output_dir / STAGING_FOLDER)
    if mesh.data.rank == 0:
        save_weights(save.path, model, tokenizer, adapter, file_format)
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
    if mesh.data.rank == 0:
        save_weights(temporary, trainer.model, trainer.tokenizer, trainer.adapter)
    state = dict(lazy_tensors(optimizer_tensors(trainer.optimizer, trainer.model)))
    if trainer.state_partition is not None:
        write_safetensors(temporary / _optimizer_file(mesh, mesh.data), state)
    elif mesh.data.rank == 0:
        write_safetensors(temporary / _optimizer_file(mesh), state)
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
    """Restore optimizer, schedule and loss scaler from a checkpoint of the same number of processes.

    Raises `InputError` where it is of other parameters.
    """
    mesh: Mesh = trainer.args.mesh
    schedule = json.loads((folder / SCHEDULE_FILE).read_text(encoding="utf-8"))
    # All sharding stages can read each other's files: each rank takes the tensors that it owns.
    stored: dict[str, Array] = {}
    for path in folder.glob(f"{_optimizer_stem(mesh)}*"):
        stored |= open_safetensors(path)
    wanted = dict(optimizer_tensors(trainer.optimizer, trainer.model))
    trained = {name for name, parameter in trainer.model.named_parameters() if not parameter.stop_gradient}
    others = trained - {_parameter_name(name) for name in wanted}  # owned by other ranks
    odd = sorted(name for name in stored.keys() ^ wanted.keys() if _parameter_name(name) not in others)
    if odd:
        raise InputError(
            f"{folder} holds the state of another optimizer or model ({', '.join(odd[:5])}): resume with the "
            "flags that it was written with, or give another --output_dir"
        )
    for name, tensor in wanted.items():
        tensor.set_value(from_numpy(np.array(stored[name]), paddle_dtype_name(tensor)))
    trainer.lr_scheduler.set_state_dict(schedule["scheduler"])
    if trainer.do_grad_scaling:
        scaler = schedule["scaler"]
        trainer.scaler.load_state_dict({**scaler, "scale": np.array(scaler["scale"], dtype=np.float32)})


def load_rng_state(folder: Path) -> None:
    """Restore this process's random state from a checkpoint."""
    set_rng_state(json.loads((folder / f"rng-{dist.get_rank():05d}.json").read_text(encoding="utf-8")))


def checkpoint_step(folder: Path) -> int:
    """The number of optimizer steps at a checkpoint."""
    return int(TrainerState.load_from_json(str(folder / TRAINER_STATE)).global_step)


def optimizer_tensors(optimizer: Any, model: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """AdamW's state as (`HUB_NAME/KIND`, tensor), of the parameters that this rank's optimizer has.

    Paddle creates the tensors at the first step and names them by counters that differ between runs; here
    they are created at once and named after the model's parameters.
    """
    parameters = [parameter for parameter in optimizer._parameter_list if not parameter.stop_gradient]
    held = {parameter.name for parameter in parameters}
    optimizer._create_accumulators(framework.default_main_program().global_block(), parameters)
    masters = optimizer._master_weights
    for name, parameter in model.named_parameters():
        if parameter.name not in held:
            continue
        master = masters.get(parameter.name)
        if master is not None:
            yield f"{name}/master", master
        key = parameter.name if master is None else master.name
        for kind, accumulators in optimizer._accumulators.items():
            if key in accumulators:
                yield f"{name}/{kind}", accumulators[key]


def _parameter_name(state: str) -> str:
    """The parameter's name of `NAME/KIND`."""
    return state.rpartition("/")[0]


def _begin_save_on_all_ranks(folder: Path) -> AtomicSave:
    """The save of `folder`: rank 0 makes its temporary folder, every rank may add files."""
    save = AtomicSave(folder)
    if dist.get_rank() == 0:
        if folder.is_dir():
            rename_obstructing(folder)
        save.begin(overwrite=True)
    barrier()
    return save


def _optimizer_stem(mesh: Mesh) -> str:
    return f"optimizer-tp{mesh.tensor.rank:02d}-of-{mesh.tensor.degree:02d}"


def _optimizer_file(mesh: Mesh, sharding_group: ProcessGroup = SINGLE_PROCESS) -> str:
    """One file per tensor-parallel rank, and per rank of `sharding_group`."""
    owner = (
        f"-dp{sharding_group.rank:02d}-of-{sharding_group.degree:02d}" if sharding_group.degree > 1 else ""
    )
    return f"{_optimizer_stem(mesh)}{owner}.safetensors"


def _schedule_state(trainer: Any) -> dict[str, Any]:
    mesh: Mesh = trainer.args.mesh
    scaler = trainer.scaler.state_dict() if trainer.do_grad_scaling else None
    return {
        "run": trainer.run_folder.run_number,
        "tensor_parallel_degree": mesh.tensor.degree,
        "data_parallel_degree": mesh.data.degree,
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": scaler and {**scaler, "scale": np.asarray(scaler["scale"]).tolist()},
    }


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, default=_to_json) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    """NumPy and Paddle values of state dicts as Python's."""
    if isinstance(value, (np.generic, np.ndarray, paddle.Tensor)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
