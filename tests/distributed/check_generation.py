"""Worker: generates over all processes and prints its tokens as one JSON line; rank 0 also alone."""

import json
import sys

import numpy as np

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.generation import GenerationParams, generate
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.parallel import init_parallel
from paddle_glm.parallel.shutdown import exit_all_ranks

# More ranks than key/value groups, and a vocabulary that does not divide.
CONFIG = ModelConfig(
    num_layers=2, hidden_size=64, num_attention_heads=8, num_key_value_heads=2, head_dim=16,
    ffn_hidden_size=96, vocab_size=161, max_sequence_length=64,
)  # fmt: skip
DECODING_MODES = {
    "greedy": {"do_sample": False},
    "beam": {"do_sample": False, "num_beams": 3, "eos_token_ids": (7, 50, 100)},
    "sampling": {},  # without a seed every process draws other numbers
}


def tokens(model, values, cache_limit=None):
    ids, mask = np.array([[5, 6, 7, 8], [0, 0, 9, 160]]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]])
    params = GenerationParams(max_new_tokens=16, **values)
    backend = DygraphBackend(model)
    if cache_limit is not None:
        backend.limit_cache(cache_limit)
    return np.stack(list(generate(backend, ids, mask, params)), axis=1).tolist()


def main():
    group = init_parallel().tensor
    shared = AutoModel.from_config(CONFIG, group=group, seed=3)
    out = {"rank": group.rank, **{name: tokens(shared, values) for name, values in DECODING_MODES.items()}}
    out["pages"] = [tokens(shared, DECODING_MODES[name], 1 << 20) for name in ("greedy", "beam")]
    if group.rank == 0:
        alone = AutoModel.from_config(CONFIG, seed=3)
        out["alone"] = {name: tokens(alone, DECODING_MODES[name]) for name in ("greedy", "beam")}
    sys.stdout.write("RESULT " + json.dumps(out) + "\n")
    sys.stdout.flush()
    exit_all_ranks()


if __name__ == "__main__":
    main()
