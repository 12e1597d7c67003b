"""Worker: finetunes with plain data parallelism and with sharded optimizers, one run after the other.

Arguments: the folder to write into, what runs to make (a JSON object: name -> flags), flags of all runs. A
run `NAME from OTHER` continues OTHER's checkpoint-2. Prints for each run the bytes of optimizer state,
the most bytes of gradients that this process held, those of parameters between two steps, and the largest
parameter's.
"""

import json
import shutil
import sys
from pathlib import Path

import paddle
import paddle.distributed as dist
from paddle.optimizer import AdamW

from paddle_glm.commands.finetune import train
from paddle_glm.parallel import init_parallel
from paddle_glm.parallel.shutdown import exit_all_ranks
from paddle_glm.training import gradients, sharded_optimizer
from paddle_glm.training.sharded_optimizer import GradientReducer
from paddle_glm.training.trainer import FinetuneTrainer

ZEROS = paddle.nn.initializer.Constant(0.0)
held_bytes: dict[str, int] = {}


def size(tensors) -> int:
    return sum(tensor.size * tensor.element_size() for tensor in tensors)


def count_held_bytes() -> None:
    """Count what a process holds; nothing is changed, but that small models fill several buckets."""
    gradients.BUCKET_NUMEL = sharded_optimizer.BUCKET_NUMEL = 1000
    create, step, collect = FinetuneTrainer.create_optimizer, AdamW.step, GradientReducer._on_gradient_ready
    trainers = []

    def count_gradients() -> None:
        trainer = trainers[-1]
        found = [parameter.grad for parameter in trainer.model.parameters()]
        if isinstance(trainer.gradient_reducer, GradientReducer):
            found += trainer.gradient_reducer._reduced.values()
        most = size(grad for grad in found if grad is not None)
        held_bytes["gradients"] = max(held_bytes["gradients"], most)

    def creating(self, *args):
        trainers.append(self)
        held_bytes["largest"] = max(size([parameter]) for parameter in self.model.parameters())
        return create(self, *args)

    def stepping(self):
        step(self)
        accumulators = [
            tensor for kind in self._accumulators.values() for tensor in kind.values() if tensor.size > 1
        ]
        held_bytes["state"] = size([*accumulators, *self._master_weights.values()])
        held_bytes["parameters"] = size(
            one for one in trainers[-1].model.parameters() if one._is_initialized()
        )
        count_gradients()

    def collecting(self, parameter):
        count_gradients()
        collect(self, parameter)

    FinetuneTrainer.create_optimizer, AdamW.step, GradientReducer._on_gradient_ready = (
        creating,
        stepping,
        collecting,
    )


def half_precision() -> bool:
    """Whether bfloat16 parameters and gradients arrive: sums go through float32 on gloo."""
    group = init_parallel(1).data
    made = [paddle.create_parameter([5], "bfloat16", default_initializer=ZEROS) for _ in range(3)]
    state_partition = sharded_optimizer.OptimizerStatePartition(made, group)
    early = GradientReducer(state_partition)
    right = True
    # One batch: sums of several are bfloat16's own, for which there is no kernel here.
    sum((p.astype("float32") * (2.0 + 4 * group.rank)).sum() for p in made).backward()
    early.finish_backward()
    for p in made:
        owned = state_partition.owner[p.name] == group.rank
        expected = 2.0 + 4.0 * (group.degree - 1) / 2  # the mean over processes
        grad = p.grad
        right &= (grad is not None and bool((grad.astype("float32") == expected).all())) == owned
        p.set_value(paddle.full([5], 1.5 + group.rank, "float32").astype("bfloat16"))
    state_partition.broadcast_parameters()
    for p in made:
        right &= bool((p.astype("float32") == 1.5 + state_partition.owner[p.name]).all())
    return right


def main() -> None:
    folder, runs, flags = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    init_parallel()
    count_held_bytes()
    found = {}
    for name, own in runs.items():
        name, _, other = name.partition(" from ")
        held_bytes.update(state=0, gradients=0, parameters=0)
        if other and dist.get_rank() == 0:
            (folder / name).mkdir()
            shutil.copytree(folder / other / "checkpoint-2", folder / name / "checkpoint-2")
        dist.barrier()
        train([*flags, *own.split(), "--output_dir", str(folder / name)])
        found[name] = dict(held_bytes)
    found["half"] = half_precision()
    print("RESULT", json.dumps({"rank": dist.get_rank(), **found}), flush=True)
    exit_all_ranks()


main()
