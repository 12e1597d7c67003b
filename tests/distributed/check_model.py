"""Worker: a model over several processes computes what one process does, gradients included.

Prints one JSON line per rank with the largest differences; `test_tensor_parallel.py` judges them.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.models.family import family_of
from paddle_glm.parallel import init_parallel, lm_head
from paddle_glm.parallel.collectives import all_reduce
from paddle_glm.parallel.rng import seed_group, sharded_rng
from paddle_glm.parallel.shutdown import exit_all_ranks

# 161 words do not divide by 2 or 4; 2 key/value groups are fewer than 4 ranks.
SIZES = {
    "num_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16,
    "ffn_hidden_size": 96, "vocab_size": 161, "max_sequence_length": 64,
}  # fmt: skip
FAMILY_SIZES = {
    "chatglm": {
        "num_key_value_heads": 8, "head_dim": 8, "position_encoding_2d": True,
        "mask_token_id": 150, "gmask_token_id": 151, "bos_token_id": 154,
    },
}  # fmt: skip


# ChatGLM2 whose fused projection is laid out head by head.
MULTI_HEAD = {"multi_query_attention": False, "num_key_value_heads": 8}


def max_difference(pairs):
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def batch(config):
    generator = np.random.default_rng(0)
    ids = generator.integers(3, 161, (3, 20))
    labels = np.where(np.arange(20) < 6, -100, ids)
    labels[1, 15:] = -100
    ids[0, 3], labels[0, 10] = 160, 160  # the last word, next to the padding
    if config.bos_token_id is not None:
        ids[:, 8:10] = config.gmask_token_id, config.bos_token_id
    return paddle.to_tensor(ids), paddle.to_tensor(labels)


def compare(config, group):
    """Largest differences from one process: logits, loss, gradients (with and without recompute)."""
    single = AutoModel.from_config(config, seed=7)
    shared = AutoModel.from_config(config, group=group, seed=7)
    ids, labels = batch(config)
    family = family_of(config)
    table = family.parameters(config)
    mask = (np.arange(20) >= np.array([[0], [3], [7]])).astype("int64")
    position_ids = paddle.to_tensor(family.positions(config, ids.numpy(), mask))
    mask = paddle.to_tensor(mask)
    out = {
        "logits": max_difference(
            [(shared(ids, position_ids, mask).logits, single(ids, position_ids, mask).logits)]
        )
    }
    position_ids = paddle.to_tensor(family.positions(config, ids.numpy(), np.ones_like(ids)))
    prefill = shared(ids[:, :10], position_ids[..., :10], use_cache=True)
    rest = shared(ids[:, 10:], position_ids[..., 10:], past_key_values=prefill.past_key_values)
    out["decode"] = max_difference([(rest.logits, single(ids).logits[:, 10:])])
    single.train(), shared.train()
    expected = single(ids, labels=labels).loss
    expected.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in single.named_parameters()}
    for name in ("plain", "recompute", "chunked", "sliced", "sliced_recompute", "sliced_full_attn"):
        shared.recompute = name.endswith(("recompute", "full_attn"))
        shared.recompute_granularity = "full_attn" if name.endswith("full_attn") else "full"
        if name == "sliced":
            shared.enable_sequence_parallel()
        loss = shared(ids, labels=labels, return_logits=name == "plain").loss
        loss.backward()
        own = [
            (p.grad.numpy(), table[name].sharding.split(gradients[name], group.rank, group.degree))
            for name, p in shared.named_parameters()
        ]
        out[f"loss_{name}"] = max_difference([(loss, expected)])
        out[f"gradient_{name}"] = max_difference(own)
        shared.clear_gradients()
    # 20 tokens divide by every degree, 19 do not.
    kept = [one(ids[:, :19], labels=labels[:, :19], output_hidden_states=True) for one in (shared, single)]
    states = zip(*(one.hidden_states for one in kept), strict=True)
    out["hidden_sliced"] = max_difference([*states, [one.loss for one in kept]])
    return out


def compare_with_original(folder, group):
    """Largest differences from the original's logits and gradients, loading only this rank's slices."""
    expected = np.load(Path(folder) / "loss.npz")
    model = AutoModel.from_pretrained(Path(folder) / "hf_fp16_sharded", dtype="float32", group=group)
    table = model.family.parameters(model.config)
    ids, labels = (paddle.to_tensor(expected[name]) for name in ("input_ids", "labels"))
    logits = model(ids).logits
    model.train()
    loss = model(ids, labels=labels).loss
    loss.backward()
    gradients = [
        (p.grad, table[name].sharding.split(expected[f"grad::{name}"], group.rank, group.degree))
        for name, p in model.named_parameters()
    ]
    return {
        "logits": max_difference([(logits, expected["logits"])]),
        "loss": max_difference([(loss, expected["loss"])]),
        "gradient": max_difference(gradients),
    }


def dropout(config, group, sliced=False):
    """Replicated activations are dropped alike on all ranks, cut ones are not."""
    seed_group(3, group)
    with sharded_rng(group):
        cut = paddle.rand([8])
    whole = paddle.rand([8])
    config = dataclasses.replace(config, hidden_dropout=0.3, attention_dropout=0.3)
    model = AutoModel.from_config(config, group=group, seed=7)
    model.train()
    model.enable_recompute()
    if sliced:
        model.enable_sequence_parallel()
    ids, labels = batch(config)
    loss = model(ids, labels=labels).loss
    loss.backward()
    (norm,) = [p.grad for name, p in model.named_parameters() if name.endswith("final_layernorm.weight")]
    spread = {}
    for name, value in {"cut": cut, "whole": whole, "loss": loss.reshape([1]), "gradient": norm}.items():
        mean = all_reduce(value, group) / group.degree
        spread[name] = float((value - mean).abs().max())
    return spread


def main():
    family, degree = sys.argv[1], int(sys.argv[2])
    mesh = init_parallel(degree)
    lm_head.CHUNK_BYTES, lm_head.CHUNKED_FROM_BYTES_CPU = 4096, 0  # several chunks of few logits
    config = ModelConfig(family=family, **{**SIZES, **FAMILY_SIZES.get(family, {})})
    out = {"rank": dist.get_rank(), "tensor": mesh.tensor.degree, "data": mesh.data.degree}
    out |= compare(config, mesh.tensor)
    out["dropout"] = [dropout(config, mesh.tensor, sliced) for sliced in (False, True)]
    if family == "chatglm2":
        out["multi_head"] = compare(dataclasses.replace(config, **MULTI_HEAD), mesh.tensor)
    if len(sys.argv) > 3:
        out["original"] = compare_with_original(sys.argv[3], mesh.tensor)
    if mesh.data.degree > 1:
        out["data_sum"] = float(all_reduce(paddle.to_tensor([float(dist.get_rank())]), mesh.data))
    print("RESULT", json.dumps(out), flush=True)
    exit_all_ranks()


if __name__ == "__main__":
    main()
