"""A rank of a launched check: does what the JSON argument says; rank 0 writes the answer."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_glm.array_types import FloatArray
from paddle_glm.auto.model import AutoModel
from paddle_glm.doctor.model_checks import exact_products
from paddle_glm.doctor.recorded import relative_error
from paddle_glm.doctor.registry import Context
from paddle_glm.doctor.tiny_models import model_folder, prompts, training_rows
from paddle_glm.hardware import use_device
from paddle_glm.models.base import CausalLM
from paddle_glm.models.family import family_of
from paddle_glm.parallel import ProcessGroup, init_parallel
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.shutdown import exit_all_ranks


def tensor_parallel(job: dict[str, Any], group: ProcessGroup) -> dict[str, dict[str, float]]:
    """Largest errors over the ranks by family: of `logits`, and of `gradients` with which options."""
    answer = {}
    for family in job["families"]:
        folder = model_folder(Path(job["folder"]), family)
        single, shared = (
            AutoModel.from_pretrained(folder, dtype=job["dtype"], group=one)
            for one in (ProcessGroup(0, 1), group)
        )
        errors = {
            "logits": _logits_error(single, shared),
            "gradients": _gradient_error(single, shared, group),
        }
        shared.enable_sequence_parallel()
        errors["gradients, sequence parallel"] = _gradient_error(single, shared, group)
        answer[family] = {name: _largest(error, group) for name, error in errors.items()}
    return answer


def _logits_error(single: CausalLM, shared: CausalLM) -> float:
    batch = {
        name: paddle.to_tensor(array) for name, array in prompts(single.config).items() if name != "labels"
    }
    with paddle.no_grad():
        ours, theirs = (model(**batch).logits.numpy() for model in (shared, single))
    return relative_error(ours, theirs)


def _gradient_error(single: CausalLM, shared: CausalLM, group: ProcessGroup) -> float:
    """The largest, relative to a gradient's norm, or to a hundredth of the largest one."""
    batch = {name: paddle.to_tensor(array) for name, array in training_rows(single.config).items()}
    for model in (single, shared):
        model.clear_gradients()
        model.train()
        model(**batch).loss.backward()
    table = family_of(single.config).parameters(single.config)
    whole = {name: _gradient(one) for name, one in single.named_parameters()}
    floor = max(float(np.linalg.norm(gradient)) for gradient in whole.values()) / 100
    errors = []
    for name, parameter in shared.named_parameters():
        theirs = table[name].sharding.split(whole[name], group.rank, group.degree)
        difference = np.linalg.norm(_gradient(parameter) - theirs)
        errors.append(float(difference) / max(float(np.linalg.norm(theirs)), floor))
    return max(errors)


def _gradient(parameter: paddle.Tensor) -> FloatArray:
    assert parameter.grad is not None, f"{parameter.name} has no gradient"
    return parameter.grad.astype("float32").numpy()


def _largest(error: float, group: ProcessGroup) -> float:
    return float(all_reduce(paddle.to_tensor([error], "float32"), group, paddle.distributed.ReduceOp.MAX))


def train(job: dict[str, Any]) -> dict[str, Any]:
    from paddle_glm.doctor.training_checks import small_run

    run = small_run(Context(job["device"], Path(job["folder"])), job["flags"])
    return {"losses": run.losses, "norms": run.norms}


def main() -> None:
    job = json.loads(sys.argv[1])
    use_device(job["device"])
    with exact_products():
        answer = train(job) if job["task"] == "train" else tensor_parallel(job, init_parallel().tensor)
    if paddle.distributed.get_rank() == 0:
        Path(job["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    exit_all_ranks()


if __name__ == "__main__":
    main()
