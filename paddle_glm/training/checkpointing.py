"""Training checkpoints: everything that continues a run bit for bit, written whole or not at all.

A `checkpoint-N` folder holds the weights (a hub layout from one process, shards from several), the
optimizer's tensors per tensor-parallel rank, the random state per process, the schedule and the
Trainer's state: safetensors and JSON only, so that resuming never unpickles.
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
    """Wait for every process of the run."""
    if world_size() > 1:
        dist.barrier()


def save_weights(
    folder: Path, model: CausalLM, tokenizer: Any, adapter: Adapter | None, file_format: str = "safetensors"
) -> None:
    """This process's slices; from the first rank also the configuration and the tokenizer.

    One process writes full weights, several write one shard each. Where an adapter is trained, it alone
    is written, in one piece and in a format of its own.
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
    """Fill, in place, the model from any folder of its family and any degree, or the adapter alone."""
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
    """The trained model into output_dir itself, beside its checkpoints, in the place of an earlier run's.

    Files are written aside and moved in one by one, the manifest last: without it the folder is not
    complete. Files that no run wrote are left alone.
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
    """Write a whole checkpoint together with the other processes; `trainer` is a `FinetuneTrainer`."""
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
    """Fill the optimizer, schedule and loss scaler from a checkpoint of as many processes.

    Raises `InputError` where the parameters are others.
    """
    mesh: Mesh = trainer.args.mesh
    schedule = json.loads((folder / SCHEDULE_FILE).read_text(encoding="utf-8"))
    # Whatever sharding stage wrote it: each process takes what it needs.
    stored: dict[str, Array] = {}
    for path in folder.glob(f"{_optimizer_stem(mesh)}*"):
        stored |= open_safetensors(path)
    wanted = dict(optimizer_tensors(trainer.optimizer, trainer.model))
    trained = {name for name, parameter in trainer.model.named_parameters() if not parameter.stop_gradient}
    others = trained - {_parameter_name(name) for name in wanted}  # what other processes own
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
    """Put this process's random generators where they were when the checkpoint was written."""
    set_rng_state(json.loads((folder / f"rng-{dist.get_rank():05d}.json").read_text(encoding="utf-8")))


def checkpoint_step(folder: Path) -> int:
    """The optimizer steps that a checkpoint's run had made."""
    return int(TrainerState.load_from_json(str(folder / TRAINER_STATE)).global_step)


def optimizer_tensors(optimizer: Any, model: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of AdamW's state as (`parameter's hub name / what`, tensor).

    Paddle makes them at the first step only, and names them by counters that differ between runs; here
    they are made at once and named after the model's parameters. Those of other owners are left out.
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
    """The parameter that a tensor of the optimizer's state belongs to, by their names."""
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
    """One file for each process that holds state of its own."""
    owner = (
        f"-dp{sharding_group.rank:02d}-of-{sharding_group.degree:02d}" if sharding_group.degree > 1 else ""
    )
    return f"{_optimizer_stem(mesh)}{owner}.safetensors"


def _schedule_state(trainer: Any) -> dict[str, Any]:
    mesh: Mesh = trainer.args.mesh
    scaler = trainer.scaler.state_dict() if trainer.do_grad_scaling else None
    return {
        "run": trainer.run.run_number,
        "tensor_parallel_degree": mesh.tensor.degree,
        "data_parallel_degree": mesh.data.degree,
        "scheduler": trainer.lr_scheduler.state_dict(),
        "scaler": scaler and {**scaler, "scale": np.asarray(scaler["scale"]).tolist()},
    }


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, default=_to_json) + "\n", encoding="utf-8")


def _to_json(value: Any) -> Any:
    """numpy and Paddle scalars, which state dicts may hold, as Python's."""
    if isinstance(value, (np.generic, np.ndarray, paddle.Tensor)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
