"""The small models against the recorded numbers, in every dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import paddle

from paddle_glm.auto.model import AutoModel
from paddle_glm.doctor.recorded import (
    METHODS,
    compute_gradients,
    compute_logits,
    compute_tokens,
    gradient_error,
    prepare_training,
    recorded,
    relative_error,
)
from paddle_glm.doctor.registry import Context, Finding, NotApplicable, check
from paddle_glm.doctor.tiny_models import FAMILIES, model_folder
from paddle_glm.models.base import CausalLM

# Largest errors, relative to the root mean square of logits and to a gradient's norm. Half precision: twice
# what rounding each layer's output and its gradient gives (logits 1.8e-2 and 2.3e-3, gradients 4.2e-2 and
# 4.9e-3).
LOGITS = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 5e-3}
GRADIENTS = {"float32": 5e-5, "bfloat16": 9e-2, "float16": 1e-2}
# With products in TF32, the default of Paddle on cards that have it.
TF32 = 4e-3


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products on GPUs in float32, where Paddle would take TF32 (10 bits) on cards since Ampere."""
    core = paddle.base.core
    if paddle.get_device() == "cpu":
        yield
        return
    before = core.get_cublas_switch()
    core.set_cublas_switch(False)
    try:
        yield
    finally:
        core.set_cublas_switch(before)


def load(context: Context, family: str, dtype: str) -> CausalLM:
    return AutoModel.from_pretrained(model_folder(context.folder, family), dtype=dtype)


def check_half_precision(dtype: str) -> None:
    """Raise `NotApplicable` where the card does not compute in bfloat16."""
    if paddle.get_device() != "cpu" and dtype == "bfloat16":
        major, minor = paddle.device.cuda.get_device_capability()
        if major < 8:
            raise NotApplicable(f"compute capability {major}.{minor}: bfloat16 needs 8.0 (Ampere)")


def answers(family: str, dtype: str, context: Context) -> Finding:
    """Logits of prompts, of decoding through the cache, and greedy tokens."""
    check_half_precision(dtype)
    model, record = load(context, family, dtype), recorded(family)
    # CPU kernels attend in bfloat16 beside weights of either kind.
    limit = LOGITS["bfloat16" if dtype == "float16" and context.device == "cpu" else dtype]
    found = Finding()
    with exact_products():
        found.measure("logits", relative_error(compute_logits(model), record["logits"]), limit)
        decoded = compute_tokens(model, forced=record["decode"]["tokens"])
        found.measure(
            "logits while decoding", relative_error(decoded["logits"], record["decode"]["logits"]), limit
        )
    # Where two tokens are nearly equal, rounding chooses.
    clear = paddle.to_tensor(record["decode"]["margins"]).numpy() > 10 * limit
    wrong = (decoded["tokens"] != record["decode"]["tokens"]) & clear
    found.measure(f"wrong tokens of {clear.sum()}", wrong.sum(), 0)
    if dtype == "float32" and context.device == "gpu":
        found.measure("logits, TF32", relative_error(compute_logits(model), record["logits"]), TF32)
    return found


def gradients(family: str, dtype: str, context: Context) -> Finding:
    """Loss and gradients of full finetuning, with and without recomputing, of LoRA and of a prefix."""
    check_half_precision(dtype)
    if context.device == "cpu" and dtype != "float32":
        raise NotApplicable("a CPU trains in float32")
    found = Finding()
    for method in METHODS:
        for recompute in (False, True) if method == "full" else (False,):
            model = load(context, family, dtype)
            prepare_training(model, method)
            if recompute:
                model.enable_recompute()
            with exact_products():
                ours, theirs = compute_gradients(model), recorded(family)[method]
            name = f"{method}, recomputed" if recompute else method
            error, worst = gradient_error(ours["gradients"], theirs["gradients"])
            loss = abs(ours["loss"] / theirs["loss"] - 1)
            found.measure(f"loss, {name}", loss, LOGITS[dtype])
            found.measure(f"gradients, {name}", error, GRADIENTS[dtype])
            found.facts[f"largest error, {name}"] = worst
    return found


# Products on a CPU may round their inputs; float32 is to be exact.
_EXACT = {"environment": {"PADDLE_GLM_ARITHMETIC": "float32"}}
_PLAIN = {"PADDLE_GLM_KERNELS": "0"}
for _family in FAMILIES:
    for _kind, _function in (("answers", answers), ("gradients", gradients)):
        for _dtype in LOGITS:
            check("model", f"{_family}: {_kind}, {_dtype}", **(_EXACT if _dtype == "float32" else {}))(
                partial(_function, _family, _dtype)
            )
            # Neither the native kernels of CPUs, for float32, nor the fused ones of GPUs, for half precision.
            check(
                "model",
                f"{_family}: {_kind} by Paddle's plain operators, {_dtype}",
                devices=("cpu",) if _dtype == "float32" else ("gpu",),
                environment=_PLAIN,
            )(partial(_function, _family, _dtype))
