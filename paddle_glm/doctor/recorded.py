"""What the small models compute, and the numbers recorded for it.

`recorded.json` was written by the float32 path on a CPU that tests hold to the numbers of the original
implementations; `PADDLE_GLM_KERNELS=0 python -m paddle_glm.doctor.recorded` writes it anew. Of logits a
sample of columns is compared. Of a gradient g the norm and the products r_i . g with fixed random signs r_i
are recorded: for an error e, the mean of (r_i . e)^2 estimates |e|^2.
"""

import json
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import paddle

from paddle_glm.array_types import Array, FloatArray
from paddle_glm.auto.model import AutoModel
from paddle_glm.doctor.tiny_models import FAMILIES, fixed_value, model_folder, prompts, training_rows
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.lora import attach_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix

METHODS = ("full", "lora", "prefix")
NEW_TOKENS = 8
_RECORD = Path(__file__).with_name("recorded.json")
_COLUMNS = slice(None, None, 32)  # of the vocabulary
_PROJECTIONS = 8


@cache
def recorded(family: str) -> dict[str, Any]:
    """What was recorded: `logits`, `decode` (of `compute_tokens`) and, by method, of `compute_gradients`."""
    record: dict[str, Any] = json.loads(_RECORD.read_text(encoding="utf-8"))
    return record[family]  # type: ignore[no-any-return]


def sampled_logits(logits: Array) -> FloatArray:
    """float32 [..., vocab] -> [..., sampled columns]."""
    return np.asarray(logits, np.float32)[..., _COLUMNS]


def compute_logits(model: CausalLM) -> FloatArray:
    """Sampled logits of the real tokens of `prompts`, float32 [43, columns]."""
    batch = prompts(model.config)
    names = ("input_ids", "position_ids", "attention_mask")
    with paddle.no_grad():
        logits = model(**{name: paddle.to_tensor(batch[name]) for name in names}).logits.numpy()
    return sampled_logits(logits[batch["attention_mask"] > 0])


def compute_tokens(model: CausalLM, forced: Array | None = None) -> dict[str, Array]:
    """Greedy decoding of `prompts` through the cache.

    forced: int [2, steps], the tokens to go on with instead of those chosen. Returns `tokens`, int
    [2, steps]; `logits`, sampled, float32 [2, steps, columns]; `margins`, float32 [2, steps]: by how much the
    chosen token's logit is above the next one's.
    """
    batch, backend = prompts(model.config), DygraphBackend(model)
    logits = backend.prefill(batch["input_ids"], batch["attention_mask"])
    steps = []
    for step in range(NEW_TOKENS):
        best = np.sort(logits, axis=-1)
        chosen = logits.argmax(axis=-1)
        steps.append((chosen, sampled_logits(logits), best[:, -1] - best[:, -2]))
        if step + 1 < NEW_TOKENS:
            logits = backend.decode(chosen if forced is None else np.asarray(forced)[:, step])
    names = ("tokens", "logits", "margins")
    return {name: np.stack(part, axis=1) for name, part in zip(names, zip(*steps, strict=True), strict=True)}


def prepare_training(model: CausalLM, method: str) -> None:
    """Attach what `method` trains ("full": nothing), with fixed values, and go to training mode."""
    if method != "full":
        adapter = (
            attach_lora(model, LoraConfig(rank=8, alpha=16, dropout=0.0))
            if method == "lora"
            else attach_prefix(model, 4, projection=False, dropout=0.0)
        )
        adapter.freeze_base_model()
        for name, parameter in _trained(model).items():
            # Exact in half precision still; larger adapters would drown the model.
            value = fixed_value(name, tuple(parameter.shape)) / 4
            parameter.set_value(paddle.to_tensor(value).astype(parameter.dtype))
    model.train()


def compute_gradients(model: CausalLM) -> dict[str, Any]:
    """Loss of `training_rows`, and of every gradient its norm and projections, by hub name."""
    batch = {name: paddle.to_tensor(array) for name, array in training_rows(model.config).items()}
    loss = model(**batch).loss
    loss.backward()
    gradients = {}
    for name, parameter in _trained(model).items():
        assert parameter.grad is not None, f"{name} has no gradient"
        gradients[name] = _summary(name, parameter.grad.astype("float32").numpy())
        parameter.clear_gradient()
    return {"loss": float(loss), "gradients": gradients}


def _trained(model: CausalLM) -> dict[str, Any]:
    return {name: one for name, one in model.named_parameters() if not one.stop_gradient}


def _summary(name: str, gradient: FloatArray) -> list[float]:
    """The norm, then the projections."""
    values = gradient.astype(np.float64).ravel()
    signs = np.random.RandomState(zlib.crc32(name.encode())).randint(0, 2, (_PROJECTIONS, values.size))
    return [float(np.sqrt(values @ values)), *map(float, (2 * signs - 1) @ values)]


def relative_error(ours: Array, theirs: Array) -> float:
    """Root mean square of the difference, relative to that of `theirs`."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.sqrt(np.square(ours - theirs).mean() / np.square(theirs).mean()))


def gradient_error(ours: Mapping[str, list[float]], theirs: Mapping[str, list[float]]) -> tuple[float, str]:
    """The largest error of a gradient relative to its norm, and whose it is.

    Norms below a hundredth of the largest count as that: gradients of keys' biases are rounding only.
    """
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    floor = max(summary[0] for summary in theirs.values()) / 100
    errors = {}
    for name, (norm, *projections) in theirs.items():
        difference = np.asarray(ours[name][1:]) - np.asarray(projections)
        errors[name] = float(np.sqrt(np.square(difference).mean())) / max(norm, floor)
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else np.inf)
    return errors[worst], worst


def _rounded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _rounded(value.tolist())
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def record_all() -> None:
    record: dict[str, Any] = {}
    with TemporaryDirectory() as scratch:
        for family in FAMILIES:
            folder = model_folder(Path(scratch), family)
            model = AutoModel.from_pretrained(folder)
            record[family] = {"logits": compute_logits(model), "decode": compute_tokens(model)}
            for method in METHODS:
                model = AutoModel.from_pretrained(folder)
                prepare_training(model, method)
                record[family][method] = compute_gradients(model)
    lines = [
        f"{json.dumps(family)}: {json.dumps(_rounded(numbers), separators=(',', ':'))}"
        for family, numbers in record.items()
    ]
    _RECORD.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    record_all()
