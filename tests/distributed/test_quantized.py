"""Quantised models in real processes: one process's integers, logits and adapters' gradients."""

from pathlib import Path

import pytest

from tests.distributed.test_tensor_parallel import results_by_rank

WORKER = Path(__file__).with_name("check_quantized.py")


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_compute_what_the_float_model_of_the_weights_does(processes: int, tmp_path: Path) -> None:
    """Both families; four ranks share two key/value groups, and groups of inputs reach over cuts."""
    for rank, cases in results_by_rank(WORKER, processes, tmp_path).items():
        for case, found in cases.items():
            assert found.pop("integers") == 0, (rank, case)
            assert found.pop("int8") < 0.03 * found.pop("int8_largest"), (rank, case)
            for kind in ("prefix", "lora"):
                assert found.pop(f"{kind}_largest") > 1e-5, (rank, case)
            for name, difference in found.items():
                assert difference < 1e-5, (rank, case, name, difference)
