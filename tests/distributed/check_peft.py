"""Worker: prefixes and LoRA over several processes give one process's numbers, gradients included.

Prints one JSON line per rank with the largest differences; `test_peft.py` judges them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import paddle.distributed as dist
from check_model import FAMILY_SIZES, SIZES, batch, max_difference

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from paddle_glm.config import ModelConfig
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel import SINGLE_PROCESS, init_parallel
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.rng import seed_group
from paddle_glm.parallel.shutdown import exit_all_ranks
from paddle_glm.peft.lora import attach_lora, use_lora
from paddle_glm.peft.lora_config import LoraConfig
from paddle_glm.peft.prefix import attach_prefix
from paddle_glm.peft.row_adapters import NamedAdapters


def attach(kind, model, dropout=0.0):
    """An adapter with numbers that all processes draw alike; LoRA's B would begin as zeros."""
    if kind == "prefix":
        return attach_prefix(model, 3, projection=True, dropout=dropout, seed=1)
    return attach_adapter(model, LoraConfig(rank=4, dropout=dropout), "default", seed=5)


def attach_adapter(model, config, name, seed):
    adapter = attach_lora(model, config, seed=1, name=name)
    random = np.random.default_rng(seed)
    arrays = {name: random.normal(0, 0.1, spec.shape) for name, spec in adapter.specs.items()}
    adapter.load_arrays({adapter.file_names[name]: array for name, array in arrays.items()})
    return adapter


def compare(kind, config, group, folder):
    """Largest differences from one process; those of gradients relative to the largest number."""
    single = AutoModel.from_config(config, seed=7)
    shared = AutoModel.from_config(config, group=group, seed=7)
    whole, cut = attach(kind, single), attach(kind, shared)
    whole.freeze_base_model(), cut.freeze_base_model()
    ids, labels = batch(config)
    prompt, mask = ids.numpy()[:, :12], np.ones((3, 12), dtype=np.int64)
    steps = []
    for model in (single, shared):
        backend = DygraphBackend(model)
        steps.append([backend.prefill(prompt, mask), backend.decode(np.array([5, 6, 7]))])
    out = {"decode": max_difference(zip(*steps, strict=True))}
    single.train(), shared.train()
    expected = single(ids, labels=labels).loss
    expected.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in whole.parameters()}
    largest = max(float(np.abs(array).max()) for array in gradients.values())
    for name in ("plain", "recompute", "sliced"):
        shared.recompute = name == "recompute"
        if name == "sliced":
            shared.enable_sequence_parallel()
        loss = shared(ids, labels=labels).loss
        loss.backward()
        out[f"loss_{name}"] = max_difference([(loss, expected)])
        pairs = [
            (p.grad, cut.specs[key].sharding.split(gradients[key], group.rank, group.degree))
            for key, p in cut.parameters()
        ]
        out[f"gradient_{name}"] = max_difference(pairs) / largest
        shared.clear_gradients()
    out["largest_gradient"] = largest
    if group.rank == 0:
        folder.mkdir()
    dist.barrier()
    cut.save(folder)
    dist.barrier()
    if kind == "lora":
        out["rows"] = compare_rows(config, group, folder, prompt)
    written = open_safetensors(folder / cut.weights_file)
    out["saved"] = max_difference(
        (written[whole.file_names[name]], value) for name, value in whole.parameters()
    )
    return out


def compare_rows(config, group, folder, prompts):
    """Largest difference of logits from one process's where each row has its own adapter, or none."""
    found = []
    for each in (SINGLE_PROCESS, group):
        backend = DygraphBackend(AutoModel.from_config(config, group=each, seed=7))
        backend.adapters = rows = NamedAdapters(backend.model)
        for name in ("first", "second"):
            rows.load(name, folder)
        read = []
        for place, adapter in enumerate(("first", None, "second")):
            prompt = prompts[place : place + 1]
            reading = backend.start_reading(prompt, np.ones_like(prompt), None, adapter)
            read.append(backend.read(reading, prompt.shape[1]))
            backend.join(reading, replace=place == 0)
        found.append([np.concatenate(read), backend.decode(np.array([5, 6, 7]))])
    return max_difference(zip(*found, strict=True))


def compare_switched_adapters(config, group):
    """Largest difference of logits from one process's while adapters take turns, and between adapters."""
    models = [AutoModel.from_config(config, group=each, seed=7) for each in (SINGLE_PROCESS, group)]
    for model in models:
        attach_adapter(model, LoraConfig(rank=4, rank_pattern={"dense": 2}), "first", seed=5)
        attach_adapter(model, LoraConfig(rank=2, target_modules=("query_key_value",)), "second", seed=6)
    ids, _ = batch(config)
    single, shared = {}, {}
    for name in ("first", "second", None, "first"):
        for model, logits in zip(models, (single, shared), strict=True):
            use_lora(model, name)
            logits[name] = model(ids).logits
    apart = min(max_difference([(single[name], single[None])]) for name in ("first", "second"))
    return max_difference((shared[name], single[name]) for name in single), apart


def dropout(kind, config, group, sliced=False):
    """How far ranks are apart in the loss and in the gradients that each has whole."""
    model = AutoModel.from_config(config, group=group, seed=7)
    adapter = attach(kind, model, dropout=0.3)
    adapter.freeze_base_model()
    model.train()
    model.enable_recompute()
    if sliced:
        model.enable_sequence_parallel()
    seed_group(3, group)
    ids, labels = batch(config)
    loss = model(ids, labels=labels).loss
    loss.backward()
    copies = [p.grad for name, p in adapter.parameters() if adapter.specs[name].sharding.axis is None]
    spread = [
        float((value - all_reduce(value, group) / group.degree).abs().max())
        for value in (loss.reshape([1]), *copies)
    ]
    return {"loss": spread[0], "gradient": max(spread[1:])}


def main():
    degree, folder = int(sys.argv[1]), Path(sys.argv[2])
    group = init_parallel(degree).tensor
    out = {}
    for family in ("chatglm2", "chatglm"):
        config = ModelConfig(family=family, **{**SIZES, **FAMILY_SIZES.get(family, {})})
        for kind in ("prefix", "lora"):
            found = compare(kind, config, group, folder / f"{family}-{kind}")
            found["dropout"] = [dropout(kind, config, group, sliced) for sliced in (False, True)]
            out[f"{family}-{kind}"] = found
        out[f"{family}-lora"]["switched"], out[f"{family}-lora"]["apart"] = compare_switched_adapters(
            config, group
        )
    print("RESULT", json.dumps({"rank": dist.get_rank(), **out}), flush=True)
    exit_all_ranks()


if __name__ == "__main__":
    main()
