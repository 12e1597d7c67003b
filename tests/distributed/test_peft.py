"""Prefixes and LoRA in real processes: the loss and every gradient equal one process's."""

from pathlib import Path

import numpy as np
import pytest

from paddle_glm.checkpoint.reshard import reshard
from paddle_glm.checkpoint.safetensors_file import open_safetensors
from tests.distributed.launch import finetune_in_turn
from tests.distributed.test_tensor_parallel import results_by_rank
from tests.training.finetune_helpers import finetune, losses, read_log, write_rows

# Seen: 1.2e-6.
LARGEST = 1e-5
WORKER = Path(__file__).with_name("check_peft.py")
WAYS = ("plain", "recompute", "sliced")
# A prefix drops out in training: alike in all processes.
METHODS = {
    "prefix": "--pre_seq_len 6 --learning_rate 1e-3",
    "lora": "--lora True --lora_rank 4 --learning_rate 1e-3",
    "lora-int4": "--lora True --lora_rank 4 --learning_rate 1e-3 --quantization_bit 4",
    "lora-embeddings": "--lora True --lora_rank 4 --learning_rate 1e-3",
}
SHORT = """
    --do_train --do_eval --max_steps 3 --eval_steps 3 --src_length 24 --tgt_length 12 --logging_steps 1
    --per_device_train_batch_size 4 --max_grad_norm 0.5 --save_strategy no --disable_tqdm True
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_compute_what_one_does(processes: int, tmp_path: Path) -> None:
    """Both families; ChatGLM2's two key/value groups are shared by four ranks."""
    for rank, cases in results_by_rank(WORKER, processes, tmp_path).items():
        for case, found in cases.items():
            for name in ("decode", *(f"{of}_{way}" for of in ("loss", "gradient") for way in WAYS)):
                assert found[name] < LARGEST, (rank, case, name, found[name])
            assert found["saved"] == 0 and found["largest_gradient"] > 1e-5, (rank, case, found)
            for spread in found["dropout"]:
                assert spread["loss"] < 1e-6 and spread["gradient"] < 1e-6, (rank, case)
            if case.endswith("lora"):  # several adapters that take turns, or run together
                assert found["rows"] < LARGEST, (rank, case, found)
                assert found["switched"] < LARGEST < 1e-3 < found["apart"], (rank, case, found)


@pytest.fixture(scope="module")
def flags(tiny_checkpoint, tiny_rows, tmp_path_factory):
    """The flags of each method, but for the number of processes and the output folder."""
    folder = tmp_path_factory.mktemp("peft")
    rows = write_rows(folder / "rows", tiny_rows)
    reshard(tiny_checkpoint, folder / "packed", quantize=(4, 16, True))  # embedding and head are integers too
    bases = dict.fromkeys(METHODS, tiny_checkpoint) | {"lora-embeddings": folder / "packed"}
    return {
        method: f"{own} {SHORT} --model_name_or_path {bases[method]} --task_name_or_path {rows}"
        for method, own in METHODS.items()
    }


@pytest.fixture(scope="module")
def shared(flags, tmp_path_factory):
    """A folder with a run of each method, by two processes that share the model."""
    folder = tmp_path_factory.mktemp("shared")
    runs = [
        {"flags": f"{words} --tensor_parallel_degree 2 --output_dir {folder / method}".split()}
        for method, words in flags.items()
    ]
    finetune_in_turn(runs, 2, folder / "logs")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_finetuning_with_two_processes(method, flags, shared, tmp_path):
    """Shared between two, the adapter that is written is one process's, in one piece."""
    assert finetune(flags[method], "--output_dir", tmp_path / "alone") == 0
    one, other = tmp_path / "alone", shared / method
    assert losses(other) == pytest.approx(losses(one), abs=1e-5)
    norms = [[line["grad_norm"] for line in read_log(out) if "grad_norm" in line] for out in (one, other)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    (name,) = (path.name for path in other.glob("*.safetensors"))
    expected, found = open_safetensors(one / name), open_safetensors(other / name)
    assert expected.keys() == found.keys()
    # AdamW divides by the gradient's size, which enlarges rounding where gradients are almost 0.
    assert max(np.abs(found[key] - array).max() for key, array in expected.items()) < 2e-4
