"""Worker: finetunes; one rank fails in one step.

Arguments: the rank, the step, what happens to it (see `FAILURES`), flags of `finetune`.
"""

import os
import signal
import sys
import time

import paddle

from paddle_glm.main import main
from paddle_glm.training import optimizer_files
from paddle_glm.training.trainer import FinetuneTrainer


def fill_disk(trainer) -> None:
    """The next file of the optimizer's state goes to a disk that is full."""
    write = optimizer_files.write_safetensors

    def write_to_full_disk(path, tensors):
        path.symlink_to("/dev/full")
        write(path, tensors)

    optimizer_files.write_safetensors = write_to_full_disk


def break_weights(trainer) -> None:
    parameter = trainer.trained_parameters[-1]
    parameter.set_value(paddle.full_like(parameter, float("nan")))


FAILURES = {
    "killed": lambda trainer: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda trainer: os.kill(os.getpid(), signal.SIGSTOP),
    "hangs": lambda trainer: time.sleep(600),
    "nan": break_weights,
    "disk": fill_disk,
}


def run() -> None:
    rank, step, failure, *flags = sys.argv[1:]
    if failure == "rows" and os.environ["PADDLE_TRAINER_ID"] == rank:
        flags = [word.replace("/rows/train.json", "/other/train.json") for word in flags]
    train = FinetuneTrainer.training_step

    def training_step(self, model, inputs, step_control=0):
        here = (paddle.distributed.get_rank(), self.state.global_step + 1) == (int(rank), int(step))
        if here and failure in FAILURES:
            FAILURES[failure](self)
        return train(self, model, inputs, step_control)

    FinetuneTrainer.training_step = training_step
    sys.exit(main(["finetune", *flags]))


run()
