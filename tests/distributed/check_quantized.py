"""Worker: a quantised model over several processes computes what the float model of its weights does.

Prints one JSON line per rank with the largest differences; `test_quantized.py` judges them.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist
from check_model import FAMILY_SIZES, SIZES, batch, max_difference
from check_peft import attach

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel import init_parallel
from paddle_glm.parallel.shutdown import exit_all_ranks
from tests.quantized import dequantized

# Groups of 32 reach over the cut of the 96 inputs that two ranks share.
QUANTIZATIONS = {
    "int8": (8, 0, False),
    "int4": (4, 0, False),
    "int4-groups": (4, 32, False),
    "all": (4, 16, True),
}


def compare(quantization, config, group, folder):
    """Largest differences from one process; those of gradients relative to the largest number."""
    names = ("quantization_bit", "quantization_group_size", "quantization_embeddings")
    floats = AutoModel.from_config(config, seed=7)
    if group.rank == 0:
        floats.save_pretrained(folder / "float")
        AutoModel.from_config(config, seed=7).quantize(*quantization).save_pretrained(folder / "packed")
    dist.barrier()
    single = AutoModel.from_pretrained(folder / "packed")
    shared = AutoModel.from_pretrained(folder / "packed", group=group)
    read = AutoModel.from_pretrained(
        folder / "float", group=group, **dict(zip(names, quantization, strict=True))
    )
    made = AutoModel.from_config(single.config, group=group, seed=7)
    pairs = zip(shared.named_arrays(), read.named_arrays(), made.named_arrays(), strict=True)
    out = {"integers": max(max_difference([(a, b), (a, c)]) for (_, a), (_, b), (_, c) in pairs)}
    exact = dequantized(single)
    ids, _ = batch(config)
    out["logits"] = max_difference([(shared(ids).logits, exact(ids).logits)])
    prompt, mask = ids.numpy()[:, :12], np.ones((3, 12), dtype=np.int64)
    steps = []
    for model in (exact, shared):
        backend = DygraphBackend(model)
        steps.append([backend.prefill(prompt, mask), backend.decode(np.array([5, 6, 7]))])
    out["decode"] = max_difference(zip(*steps, strict=True))
    out["int8"], out["int8_largest"] = int8_difference(shared, exact, ids)
    for kind in ("prefix", "lora"):
        out |= gradients(kind, folder / "packed", group)
    return out


def int8_difference(shared, exact, ids):
    """Of the logits with activations rounded to int8, as by default; and the largest logit."""
    asked = os.environ.pop("PADDLE_GLM_ARITHMETIC")
    with paddle.no_grad():
        rounded, expected = shared(ids).logits, exact(ids).logits
    os.environ["PADDLE_GLM_ARITHMETIC"] = asked
    return max_difference([(rounded, expected)]), float(expected.abs().max())


def gradients(kind, folder, group):
    """Loss and gradients of an adapter, against the float model of the same weights in one process."""
    exact, shared = (
        dequantized(AutoModel.from_pretrained(folder)),
        AutoModel.from_pretrained(folder, group=group),
    )
    whole, cut = attach(kind, exact), attach(kind, shared)
    whole.freeze_base_model(), cut.freeze_base_model()
    ids, labels = batch(shared.config)
    exact.train(), shared.train()
    expected = exact(ids, labels=labels).loss
    expected.backward()
    wanted = {name: parameter.grad.numpy() for name, parameter in whole.parameters()}
    largest = max(float(np.abs(array).max()) for array in wanted.values())
    out = {f"{kind}_largest": largest}
    for name in ("plain", "recompute", "sliced"):
        shared.recompute = name == "recompute"
        if name == "sliced":
            shared.enable_sequence_parallel()
        loss = shared(ids, labels=labels).loss
        loss.backward()
        pairs = [
            (p.grad, cut.specs[key].sharding.split(wanted[key], group.rank, group.degree))
            for key, p in cut.parameters()
        ]
        out[f"{kind}_loss_{name}"] = max_difference([(loss, expected)])
        out[f"{kind}_gradient_{name}"] = max_difference(pairs) / largest
        assert all(
            p.grad is None
            for key, p in shared.named_parameters()
            if "lora_" not in key and "prefix" not in key
        )
        shared.clear_gradients()
    return out


def main():
    degree, folder = int(sys.argv[1]), Path(sys.argv[2])
    group = init_parallel(degree).tensor
    out = {}
    for family in ("chatglm2", "chatglm"):
        config = ModelConfig(family=family, **{**SIZES, **FAMILY_SIZES.get(family, {})})
        for name, quantization in QUANTIZATIONS.items():
            out[f"{family}-{name}"] = compare(quantization, config, group, folder / f"{family}-{name}")
    print("RESULT", json.dumps({"rank": dist.get_rank(), **out}), flush=True)
    exit_all_ranks()


main()
