"""How an epoch's rows are divided into optimizer steps: what runs that continue each other share.

The order of rows depends on the seed, the epoch and the rows. So a checkpoint's step number says which rows
have been trained on, for any number of processes, as long as every step takes as many rows.
"""

from dataclasses import dataclass
from pathlib import Path

from paddle_glm.errors import InputError


@dataclass(frozen=True)
class EpochShape:
    """rows_per_step: rows of one optimizer step, over all processes. steps_per_epoch: optimizer steps.

    batch_size: rows per batch where the order of rows depends on it (`--group_by_length`); else None.
    """

    rows_per_step: int
    steps_per_epoch: int
    batch_size: int | None = None

    def check_continues(self, earlier: "EpochShape", folder: Path, batch_size: int, processes: int) -> None:
        """Raise `InputError` where this run would not go on with the rows at which a checkpoint stopped.

        earlier: of the run that wrote the checkpoint `folder`. batch_size, processes: rows per batch and
        number of data-parallel processes of this run.
        """
        if self.rows_per_step != earlier.rows_per_step:
            raise InputError(
                f"{folder} was written with {earlier.rows_per_step} rows per optimizer step, this run has "
                f"{self.rows_per_step} (data-parallel processes: {processes}): "
                f"{_advice(earlier.rows_per_step, batch_size, processes)}"
            )
        if self.batch_size != earlier.batch_size:
            given = "without --group_by_length"
            if earlier.batch_size is not None:
                given = f"with --group_by_length and --per_device_train_batch_size {earlier.batch_size}"
            raise InputError(f"{folder} was written {given}, so its rows have another order: give the same")
        if self.steps_per_epoch != earlier.steps_per_epoch:
            raise InputError(
                f"{folder} was written with {earlier.steps_per_epoch} optimizer steps per epoch, this run "
                f"has {self.steps_per_epoch}: give the same training rows and --per_device_train_batch_size, "
                "or start anew from its weights with another --output_dir"
            )


def _advice(rows: int, batch_size: int, processes: int) -> str:
    """What to give so that `processes` take `rows` per optimizer step."""
    if rows % processes:
        return f"start a number of data-parallel processes that divides {rows}"
    accumulation, rest = divmod(rows // processes, batch_size)
    if rest:
        product = "--per_device_train_batch_size times --gradient_accumulation_steps"
        return f"give {product} = {rows // processes}"
    return f"give --gradient_accumulation_steps {accumulation}"
