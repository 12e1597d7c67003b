"""The flags that `estimate-memory --gpu_memory` prints: they fit, by the estimate of those very flags."""

import json

import pytest

from paddle_glm.main import main
from paddle_glm.training.memory_recipes import find_recipes, usable_bytes

LENGTHS = ["--src_length", "256", "--tgt_length", "256"]


@pytest.mark.parametrize("gpu_memory", [24, 80])
def test_recipes_fit(gpu_memory, capsys):
    recipes = find_recipes("finetune", "chatglm2-6b", gpu_memory, LENGTHS)
    assert len(recipes) == 12
    found = {(one.method, one.cards): one for one in recipes}
    for one in recipes:
        if one.flags is None:
            continue
        words = ["--model", "chatglm2-6b", "--processes", str(one.cards), *one.flags.split(), *LENGTHS]
        assert main(["estimate-memory", "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["total"] == one.memory.total <= usable_bytes(gpu_memory)
    # A 6B with AdamW takes 16 bytes a parameter, however it is shared out, or 4 with offload.
    full = {cards: one.flags for (method, cards), one in found.items() if method == "all weights"}
    room = usable_bytes(gpu_memory) / 2**30 - 1.5
    assert [cards for cards in full if full[cards]] == ([1, 2, 4, 8] if gpu_memory == 80 else [2, 4, 8])
    assert all(("offload" in flags) == (93 / cards > room) for cards, flags in full.items() if flags)
    assert found["LoRA", 1].flags and "quantization" not in found["LoRA", 1].flags


def test_smaller_cards_take_fewer_bits(capsys):
    words = ["estimate-memory", "--model", "chatglm-6b", "--gpu_memory", "8", "--command", "ptuning"]
    assert main(words) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert (
        line.startswith("P-Tuning v2  1, 2, 4, 8")
        and "--do_train --pre_seq_len 128 --quantization_bit 4" in line
    )
    assert (
        main(
            [
                "estimate-memory",
                "--command",
                "ptuning",
                "--model",
                "chatglm-6b",
                *line.split("  ")[-1].split(),
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "chatglm2-6b", "--recompute", "True"], "--recompute: --gpu_memory chooses it"),
        (["--model", "chatglm2-6b", "--lora-rank", "0"], "lora_rank"),
        (["--model", "chatglm2-6b", "--src_lengt", "9"], "did you mean 'src_length'"),
        (["--recipe", "configs/chatglm2/lora.yaml"], "give --model"),
        (["--model", "chatglm2-6b", "--processes", "2"], "give --model"),
    ],
)
def test_what_has_no_recipe_is_an_error(words, message, capsys):
    assert main(["estimate-memory", "--gpu_memory", "24", *words]) == 2
    assert message in capsys.readouterr().err
