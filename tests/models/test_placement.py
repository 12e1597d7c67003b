"""`to`, `cuda` and `cpu` of a model."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.errors import InputError
from paddle_glm.hardware import gpu_count
from paddle_glm.models.base import CausalLM


@pytest.fixture
def model(tiny_checkpoint: Path) -> CausalLM:
    return AutoModel.from_pretrained(tiny_checkpoint)


@pytest.mark.skipif(gpu_count() > 0, reason="there is a GPU")
@pytest.mark.parametrize(
    "move",
    [lambda m: m.cuda(), lambda m: m.cuda(1), lambda m: m.cuda("cuda:0"), lambda m: m.to("cuda"),
     lambda m: m.to("gpu:0"), lambda m: m.half().cuda().eval(), lambda m: m.to("cuda", dtype="float16")],
)  # fmt: skip
def test_a_gpu_that_is_not_there_is_said(model: CausalLM, move) -> None:
    with pytest.raises(InputError, match="install paddlepaddle-gpu"):
        move(model)


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [(("cpu",), "float32"), ((paddle.CPUPlace(),), "float32"), (("cpu", "float16"), "float16"),
     (("bfloat16",), "bfloat16"), ((paddle.float16,), "float16"), ((np.float16,), "float16"),
     ((None, paddle.bfloat16), "bfloat16"), ((), "float32")],
)  # fmt: skip
def test_a_move_and_a_cast(model: CausalLM, arguments, dtype: str) -> None:
    ids = paddle.to_tensor([[5, 6, 7]])
    before = model(ids).logits
    assert model.to(*arguments) is model
    assert model.dtype == dtype and {str(p.dtype) for p in model.parameters()} == {f"paddle.{dtype}"}
    assert float((model(ids).logits - before).abs().max()) < (1e-6 if dtype == "float32" else 0.1)
    assert model.cpu() is model and paddle.get_device() == "cpu"
    assert model.astype("float32").dtype == "float32"


@pytest.mark.parametrize("arguments", [("tpu",), (None, "int8"), ("float64",)])
def test_what_is_neither_is_named(model: CausalLM, arguments) -> None:
    with pytest.raises(InputError, match=str(arguments[-1])):
        model.to(*arguments)
    with pytest.raises(InputError, match="float64"):
        model.double()
