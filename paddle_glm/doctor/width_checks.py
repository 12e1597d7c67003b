"""Two layers of the released models: fused operators against plain ones at real sizes and lengths."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import paddle

from paddle_glm.array_types import Array
from paddle_glm.config import ModelConfig, released_configs
from paddle_glm.data.datasets import Collator
from paddle_glm.doctor.model_checks import GRADIENTS, LOGITS, check_half_precision
from paddle_glm.doctor.random_models import random_model
from paddle_glm.doctor.recorded import relative_error
from paddle_glm.doctor.registry import Context, Finding, check
from paddle_glm.doctor.tiny_models import training_samples
from paddle_glm.kernels.usage import plain_operators
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend

_TOKENS, _STEPS = 1100, 6


def fused_and_plain(config: ModelConfig, dtype: str, tokens: int, context: Context) -> Finding:
    """Logits of two prompts of which one is padded, of decoding, and gradients of a batch."""
    check_half_precision(dtype)
    model = random_model(config, dtype)
    fused = _logits(model, tokens), _gradients(model, tokens)
    with plain_operators():
        plain = _logits(model, tokens), _gradients(model, tokens)
    found = Finding()
    for name, ours, theirs in zip(("prompt", "decoding"), fused[0], plain[0], strict=True):
        found.measure(f"logits, {name}", relative_error(ours, theirs), LOGITS[dtype])
    errors = {name: relative_error(fused[1][name], plain[1][name]) for name in plain[1]}
    worst = max(errors, key=lambda name: errors[name])
    found.measure("gradients", errors[worst], GRADIENTS[dtype])
    found.facts["largest error"] = worst
    return found


def _logits(model: CausalLM, tokens: int) -> tuple[Array, Array]:
    """Of the last position of the prompts, and of steps with given tokens: float32 [2, ..., vocab]."""
    samples = training_samples(model.config, 2, tokens)
    if model.config.family == "chatglm":  # its prompts end with [gMASK] <sop>
        for sample in samples:
            sample["input_ids"][-2:] = model.config.gmask_token_id, model.config.bos_token_id
    short = {name: array[..., tokens // 3 :] for name, array in samples[1].items()}
    batch = Collator(model.config.pad_token_id, side="left")([samples[0], short])
    backend = DygraphBackend(model)
    model.eval()
    first = backend.prefill(batch["input_ids"], batch["attention_mask"])
    steps = [backend.decode(np.array([20 + step, 40 + step])) for step in range(_STEPS)]
    return first, np.stack(steps, axis=1)


def _gradients(model: CausalLM, tokens: int) -> dict[str, Array]:
    """Of the first block's weights and the final norm, after the whole way back; float32, by name."""
    batch = Collator(model.config.pad_token_id)(
        [*training_samples(model.config, 1, tokens), *training_samples(model.config, 1, tokens // 2)]
    )
    model.train()
    model(**{name: paddle.to_tensor(array) for name, array in batch.items()}).loss.backward()
    wanted = ("layers.0.", "final_layernorm")
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        # Biases of keys have gradients that are rounding only.
        if any(part in name for part in wanted) and not name.endswith("value.bias"):
            assert parameter.grad is not None, f"{name} has no gradient"
            found[name] = parameter.grad.astype("float32").numpy()
        parameter.clear_gradient()
    return found


for _name in ("chatglm-6b", "chatglm2-6b"):
    _config = replace(ModelConfig.from_dict(released_configs()[_name]), num_layers=2)
    for _dtype in ("bfloat16", "float16"):
        check(
            "operators",
            f"2 layers of {_name}, fused and plain, {_dtype}",
            devices=("gpu",),
            slow=True,
            seconds=300,
        )(partial(fused_and_plain, _config, _dtype, _TOKENS))
