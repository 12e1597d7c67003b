"""`load_model_on_gpus` of THUDM's utils.py: here several processes share a model, slice by slice."""

import sys
from pathlib import Path
from typing import Any

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.hardware import gpu_count
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import init_parallel, world_size


def load_model_on_gpus(checkpoint_path: str | Path, num_gpus: int = 2, **keywords: Any) -> CausalLM:
    """The model, shared by `num_gpus` processes that the launcher started, of which this is one.

    Each holds its slices on its own GPU (on a machine without GPUs: on the CPU), and all make the same calls.
    keywords: those of `AutoModel.from_pretrained`. Raises `InputError` where other than `num_gpus` processes
    run, with the command that starts them.
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
