"""Speed of inference: reading a prompt, and decoding."""

import time
from dataclasses import replace
from functools import partial

import numpy as np
import paddle

from paddle_glm.config import ModelConfig, released_configs
from paddle_glm.doctor.model_checks import check_half_precision
from paddle_glm.doctor.random_models import random_model
from paddle_glm.doctor.registry import Context, Finding, NotApplicable, check
from paddle_glm.doctor.tiny_models import tiny_config
from paddle_glm.hardware import free_memory
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.models.family import family_of

_WARM_UP, _STEPS = 4, 24


def decoding(
    config: ModelConfig, dtype: str, bits: int, prompt: int, needed_gib: float, context: Context
) -> Finding:
    """A prompt in one row, then tokens one by one, each chosen on the host as generation does."""
    check_half_precision(dtype)
    device = paddle.get_device()
    if (free := free_memory(device) / 2**30) < needed_gib:
        raise NotApplicable(f"{free:.1f} GiB are free: it takes {needed_gib}")
    if bits:
        config = family_of(config).quantized_config(config, bits)
    backend = DygraphBackend(random_model(config, dtype))
    ids = np.random.RandomState(0).randint(10, 480, (1, prompt)).astype(np.int64)
    prefill, steps = [], []
    for _ in range(2):  # the first round loads kernels
        started = time.perf_counter()
        logits = backend.prefill(ids, np.ones_like(ids))
        prefill.append(time.perf_counter() - started)
    for _ in range(_WARM_UP + _STEPS):
        started = time.perf_counter()
        logits = backend.decode(logits.argmax(axis=-1))
        steps.append(time.perf_counter() - started)
    found = Finding()
    found.measure("logits that are not finite", np.logical_not(np.isfinite(logits)).sum(), 0)
    found.measure(f"prompt of {prompt}", prompt / prefill[-1], unit="tokens/s")
    found.measure("decoding", 1 / float(np.median(steps[_WARM_UP:])), unit="tokens/s")
    return found


_RELEASED = ModelConfig.from_dict(released_configs()["chatglm2-6b"])
_SMALL = replace(tiny_config("chatglm2"), num_layers=8, max_sequence_length=1024)
for _bits in (0, 8, 4):
    _name = f"int{_bits}" if _bits else "float32"
    check("speed", f"a small model in {_name}", devices=("cpu",))(
        partial(decoding, _SMALL, "float32", _bits, 128, 1)
    )
for _dtype, _bits, _gib in (("bfloat16", 0, 14), ("float16", 0, 14), ("float16", 8, 9), ("float16", 4, 6)):
    _name = f"int{_bits}" if _bits else _dtype
    check("speed", f"ChatGLM2-6B in {_name}", devices=("gpu",), slow=True, seconds=300)(
        partial(decoding, _RELEASED, _dtype, _bits, 1024, _gib)
    )
