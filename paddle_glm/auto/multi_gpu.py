"""`load_model_on_gpus` of THUDM's utils.py, as tensor parallelism over several processes."""

import sys
from pathlib import Path
from typing import Any

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.hardware import gpu_count
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import init_parallel, world_size


def load_model_on_gpus(checkpoint_path: str | Path, num_gpus: int = 2, **keywords: Any) -> CausalLM:
    """Load this rank's part of the model; the launcher has started `num_gpus` processes.

    Each rank holds its slices on its own GPU (or on the CPU of a machine without GPUs); all ranks make the
    same calls. keywords: those of `AutoModel.from_pretrained`. Raises `InputError`, with the command to
    start, where the number of processes is not `num_gpus`.
    """
    if num_gpus < 2:
        return AutoModel.from_pretrained(checkpoint_path, **{"device": "gpu", **keywords})
    if world_size() != num_gpus:
        script = sys.argv[0] if sys.argv[0].endswith(".py") else "SCRIPT.py"
        which = f"--gpus {','.join(map(str, range(num_gpus)))}"
        if not gpu_count():
            which = f"--nproc_per_node {num_gpus}"
        raise InputError(
            f"load_model_on_gpus with num_gpus={num_gpus} needs as many processes, but {world_size()} run: "
            f"start this script by `python -m paddle.distributed.launch {which} {script}`"
        )
    return AutoModel.from_pretrained(checkpoint_path, group=init_parallel().tensor, **keywords)
