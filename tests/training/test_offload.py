"""AdamW whose state is in the host's memory."""

import numpy as np
import paddle
import pytest

from paddle_glm.errors import InputError
from paddle_glm.numpy_interop import to_numpy
from paddle_glm.training import optimizer as module
from paddle_glm.training.optimizer import FusedAdamW


def train(dtype, offload, rounded="float32"):
    """The optimizer after some steps. rounded: dtype that initial weights and gradients are rounded to."""
    random = np.random.default_rng(0)

    def tensor(shape):
        values = paddle.to_tensor(random.standard_normal(shape).astype("float32"))
        return values.astype(rounded).astype(dtype)

    shapes = ([5, 3], [7])
    parameters = [paddle.base.framework.EagerParamBase.from_tensor(tensor(shape)) for shape in shapes]
    rate = paddle.optimizer.lr.LinearWarmup(0.1, 3, 0.0, 0.1)
    optimizer = FusedAdamW(
        parameters=parameters,
        learning_rate=rate,
        weight_decay=0.1,
        apply_decay_param_fun=lambda name: name == parameters[0].name,
        multi_precision=dtype != "float32",
        offload=offload,
    )
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = tensor(parameter.shape)
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    return parameters, optimizer


def state_of(optimizer):
    """Moments and powers of beta, kind by kind, in the order of the parameters."""
    return [
        tensor
        for kind in sorted(optimizer._accumulators)
        for tensor in optimizer._accumulators[kind].values()
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_are_those_without(dtype):
    """Half precision is held to float32 from the same numbers: its master weights do the same."""
    parameters, optimizer = train(dtype, True, dtype)
    expected, reference = train("float32", False, dtype)
    masters = list(optimizer._master_weights.values())
    assert len(masters) == (0 if dtype == "float32" else 2)
    for ours, theirs in zip(masters or parameters, expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    for ours, theirs in zip(parameters, expected, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs.astype(dtype)))
    states = state_of(optimizer)
    for ours, theirs in zip(states, state_of(reference), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert all(tensor.place.is_cpu_place() for tensor in [*states, *masters]) and len(states) == 8


def test_the_native_kernel_is_asked_for(monkeypatch):
    monkeypatch.setattr(module, "kernel_library", lambda: None)
    with pytest.raises(InputError, match="paddle-glm kernels"):
        FusedAdamW(parameters=[paddle.create_parameter([2], "float32")], offload=True)
