"""The operators of a training step and their gradients, against Paddle's own operators in float64."""

from collections.abc import Callable, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor
from paddle.optimizer import AdamW

from paddle_glm.kernels import training
from paddle_glm.kernels.library import kernel_library
from paddle_glm.layers.attention import split_qkv_blocks
from paddle_glm.layers.rotary import apply_rotary_interleaved
from paddle_glm.parallel import SINGLE_PROCESS
from paddle_glm.parallel.cross_entropy import vocab_parallel_cross_entropy
from paddle_glm.training.optimizer import FusedAdamW

pytestmark = [
    pytest.mark.skipif(kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"),
    pytest.mark.usefixtures("forced_isa"),
]
Function = Callable[..., Sequence[Tensor]]


def compare(native: Function, plain: Function, *inputs: Tensor, tolerance: float = 2e-6) -> None:
    """Results and gradients of `native` are those of `plain` in float64, relative to the largest number."""

    def run(function: Function, dtype: str) -> list[Tensor]:
        leaves = [one.detach().astype(dtype).clone() for one in inputs]
        for leaf, one in zip(leaves, inputs, strict=True):
            leaf.stop_gradient = one.stop_gradient
        results = list(function(*leaves))
        weights = np.random.default_rng(7)
        terms = [
            (result * paddle.to_tensor(weights.standard_normal(result.shape)).astype(dtype)).sum()
            for result in results
        ]
        paddle.add_n(terms).backward()
        return results + [leaf.grad for leaf in leaves if not leaf.stop_gradient]

    for found, expected in zip(run(native, "float32"), run(plain, "float64"), strict=True):
        difference = np.abs(found.numpy() - expected.numpy()).max(initial=0.0)
        assert difference <= tolerance * max(1.0, np.abs(expected.numpy()).max(initial=0.0))


def random(*shape: int, scale: float = 1.0, trained: bool = True) -> Tensor:
    generator = np.random.default_rng(sum(shape) + len(shape))
    tensor = paddle.to_tensor((generator.standard_normal(shape) * scale).astype(np.float32))
    tensor.stop_gradient = not trained
    return tensor


@pytest.mark.parametrize("shape", [(3, 77, 128), (1, 1, 1), (2, 130, 33), (5, 512)])
@pytest.mark.parametrize("frozen", [False, True])
def test_rms_norm(shape: tuple[int, ...], frozen: bool) -> None:
    def plain(x: Tensor, weight: Tensor) -> Sequence[Tensor]:
        return [x * paddle.rsqrt(x.square().mean(axis=-1, keepdim=True) + 1e-5) * weight]

    inputs = random(*shape, scale=30.0), random(shape[-1], trained=not frozen)
    compare(lambda x, weight: [training.rms_norm(x, weight, 1e-5)], plain, *inputs)


@pytest.mark.parametrize("shape", [(3, 7, 688), (1, 2), (4, 5, 62)])
def test_swiglu(shape: tuple[int, ...]) -> None:
    def plain(x: Tensor) -> Sequence[Tensor]:
        gate, up = x.chunk(2, axis=-1)
        return [gate * F.sigmoid(gate) * up]

    compare(lambda x: [training.swiglu(x)], plain, random(*shape, scale=5.0))
    extreme = paddle.to_tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 200.0] + 6 * [1.0])
    assert training.swiglu(extreme).tolist() == pytest.approx([0, 0, 0, 0, 88, 200], abs=1e-36)


@pytest.mark.parametrize(
    ("heads", "groups", "head_dim", "half"), [(4, 2, 32, 8), (3, 3, 10, 5), (2, 1, 6, 1)]
)
def test_split_rotary(heads: int, groups: int, head_dim: int, half: int) -> None:
    sizes = [count * head_dim for count in (heads, groups, groups)]

    def native(qkv: Tensor, cos: Tensor, sin: Tensor) -> Sequence[Tensor]:
        return training.split_rotary(qkv, cos, sin, heads, groups, 0.3)

    def plain(qkv: Tensor, cos: Tensor, sin: Tensor) -> Sequence[Tensor]:
        query, key, value = split_qkv_blocks(qkv, sizes, head_dim)
        query, key = (apply_rotary_interleaved(one, cos, sin) for one in (query * 0.3, key))
        return query, key, value

    table = [random(2, 1, 9, half, trained=False) for _ in "cs"]
    compare(native, plain, random(2, 9, sum(sizes)), *table)


@pytest.mark.parametrize("mask_rows", [1, 2])
def test_masked_softmax(mask_rows: int) -> None:
    hidden = np.random.default_rng(1).random((mask_rows, 1, 9, 21)) < 0.4
    mask = paddle.to_tensor(np.where(hidden, -1e9, 0.0).astype(np.float32))
    visible = paddle.to_tensor(~hidden).unsqueeze(1)
    scores = random(2, 2, 27, 21, scale=4.0)

    def plain(scores: Tensor) -> Sequence[Tensor]:
        powers = paddle.exp(scores.reshape([2, 2, 3, 9, 21])) * visible.astype(scores.dtype)
        return [(powers / powers.sum(axis=-1, keepdim=True)).reshape(scores.shape)]

    compare(lambda scores: [training.masked_softmax(scores, mask)], plain, scores)
    weights = training.masked_softmax(scores, mask).reshape([2, 2, 3, 9, 21])
    assert (weights * (~visible).astype("float32")).max() == 0.0
    nothing = training.masked_softmax(scores, paddle.full([1, 1, 9, 21], -1e9))
    assert np.abs(nothing.numpy() - 1.0 / 21.0).max() < 1e-7  # as the layers' own


@pytest.mark.parametrize("size", [161, 1208, 5])
def test_cross_entropy(size: int) -> None:
    labels = paddle.to_tensor(np.random.default_rng(2).integers(0, size, (4, 9)))
    labels[0, :5] = -100

    def native(logits: Tensor) -> Sequence[Tensor]:
        return [vocab_parallel_cross_entropy(logits, labels, SINGLE_PROCESS)]

    def plain(logits: Tensor) -> Sequence[Tensor]:
        loss = F.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
        return [loss.reshape(labels.shape)]

    compare(native, plain, random(4, 9, size, scale=9.0))
    compare(native, plain, random(4, 9, size) + 80.0 * random(4, 9, 1).detach())


@pytest.mark.parametrize("size", [1, 33, 100_000])
def test_squared_norm(size: int) -> None:
    x = random(size)
    assert training.squared_norm(x) == pytest.approx((x.numpy().astype(np.float64) ** 2).sum(), rel=1e-6)


@pytest.mark.parametrize("native", [True, False])
def test_adamw_takes_the_steps_of_paddle_s(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """With a schedule, decay of some parameters, and the same state afterwards.

    native: by our kernel; otherwise by Paddle's for many tensors, as on a GPU.
    """
    if not native:
        monkeypatch.setattr(training, "in_place", lambda *tensors: False)

    def run(kind: type[AdamW]) -> list[np.ndarray]:
        generator = np.random.default_rng(3)
        parameters = [paddle.create_parameter(shape, "float32") for shape in ([37, 19], [40_000], [3])]
        for one in parameters:
            one.set_value(generator.standard_normal(one.shape).astype(np.float32))
        schedule = paddle.optimizer.lr.LinearWarmup(1e-2, 4, 0.0, 1e-2)
        optimizer = kind(
            parameters=parameters,
            learning_rate=schedule,
            weight_decay=0.1,
            apply_decay_param_fun={parameters[0].name}.__contains__,
            beta2=0.95,
        )
        for _ in range(8):
            for one in parameters:
                one.grad = paddle.to_tensor(generator.standard_normal(one.shape).astype(np.float32))
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
        state = [value.numpy() for value in optimizer.state_dict().values() if isinstance(value, Tensor)]
        return [one.numpy() for one in parameters] + state

    for found, expected in zip(run(FusedAdamW), run(AdamW), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_where_they_are_not_used() -> None:
    x = random(2, 8)
    assert training.usable(x)
    assert not training.usable(x.detach()) and not training.usable(x.astype("float64"))
    with paddle.no_grad():
        assert not training.usable(x)
