"""Averaging and clipping of gradients, apart from real processes."""

import numpy as np
import paddle
import pytest

from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.sharding import REPLICATED, ParameterSpec, Segment, column_parallel, row_parallel
from paddle_glm.training import gradients
from paddle_glm.training.optimizer import FusedAdamW


def trained(*shapes):
    """Parameters, and a loss whose gradients are 0, 1, 2, ... of each."""
    made = [paddle.create_parameter(shape, "float32") for shape in shapes]

    def loss():
        return sum((p * paddle.arange(p.size, dtype="float32").reshape(p.shape)).sum() for p in made)

    return made, loss


@pytest.mark.parametrize("bucket", [1, 10, 1000])
@pytest.mark.parametrize("in_flight", [0, 1, 2])
def test_every_gradient_is_averaged_whatever_the_bucket(monkeypatch, bucket, in_flight):
    monkeypatch.setattr(gradients, "BUCKET_NUMEL", bucket)
    during_backward = []

    # Three processes with this one's gradient times 1, 2 and 3: their mean is twice this one's.
    def start_all_reduce(x, group):
        during_backward.append(running)
        return lambda: x.scale_(6.0)

    monkeypatch.setattr(gradients, "start_all_reduce", start_all_reduce)
    monkeypatch.setattr(gradients, "max_in_flight", lambda flat: in_flight)
    made, loss = trained([2, 3], [5], [4, 2])
    unused = paddle.create_parameter([2], "float32")
    averager = gradients.GradientAverager([*made, unused], ProcessGroup(0, 3))
    for is_last in (False, True):  # two batches are accumulated
        averager.begin_backward(is_last)
        running = True
        loss().backward()
        running = False
        averager.finish_backward()
        assert is_last or not during_backward
    for tensor in made:
        expected = 4 * np.arange(tensor.size, dtype="float32").reshape(tensor.shape)
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-6)
    assert unused.grad is None
    assert during_backward[0] == (bucket < 1000)


def clip_of(group, limit=1.0):
    rows = column_parallel(Segment(8, 8), Segment(4, 2))  # 8 rows of queries, 2 groups of 2 rows
    specs = {
        "column": ParameterSpec((12, 3), rows),
        "row": ParameterSpec((3, 8), row_parallel(Segment(8, 8))),
        "norm": ParameterSpec((5,), REPLICATED),
    }
    return gradients.HybridParallelClipGrad(limit, specs, {name: name for name in specs}, group), specs


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_shares_of_the_norm_add_up(degree):
    """Rows that several ranks hold, and replicated parameters, count once."""
    random = np.random.default_rng(0)
    _, specs = clip_of(SINGLE_PROCESS)
    whole = {name: random.standard_normal(spec.shape).astype("float32") for name, spec in specs.items()}
    total = 0.0
    for rank in range(degree):
        clip, _ = clip_of(ProcessGroup(rank, degree))
        for name, spec in specs.items():
            part = spec.sharding.split(whole[name], rank, degree)
            total += float(clip.squared_norm(name, paddle.to_tensor(part)))
    assert total == pytest.approx(sum(float((grad**2).sum()) for grad in whole.values()), rel=1e-6)


@pytest.mark.parametrize(("limit", "factor"), [(1.0, 0.2), (10.0, 1.0)])
def test_clipping(limit, factor):
    clip, _ = clip_of(SINGLE_PROCESS, limit)
    norm = paddle.create_parameter([5], "float32")
    norm.name = "norm"
    ((_, clipped),) = clip([(norm, paddle.to_tensor([3.0, 0.0, 4.0, 0.0, 0.0]))])
    assert float(clip.norm) == pytest.approx(5.0)
    np.testing.assert_allclose(clipped.numpy(), np.array([3, 0, 4, 0, 0]) * factor, rtol=1e-6)


@pytest.mark.parametrize("native", [True, False])
def test_an_optimizer_scales_what_the_clip_leaves(monkeypatch, native):
    """A first step of AdamW has the sign of the gradient, but for epsilon, which makes its size count."""
    if not native:
        monkeypatch.setattr(gradients.training, "in_place", lambda *tensors: False)
    clip, _ = clip_of(SINGLE_PROCESS, 1.0)
    norm = paddle.create_parameter([5], "float32", default_initializer=paddle.nn.initializer.Constant(0.0))
    norm.name = "norm"
    norm.grad = paddle.to_tensor([3.0, 0.0, 4.0, 0.0, 0.0])
    FusedAdamW(parameters=[norm], learning_rate=1.0, epsilon=1.0, weight_decay=0.0, grad_clip=clip).step()
    clipped = np.array([0.6, 0, 0.8, 0, 0])
    np.testing.assert_allclose(norm.numpy(), -clipped / (clipped + 1), rtol=1e-5)


@pytest.mark.parametrize("elsewhere", [0, 1])
def test_an_infinity_on_any_rank_skips_the_step_on_all(monkeypatch, elsewhere):
    monkeypatch.setattr(gradients, "all_reduce", lambda x, group, op: x + elsewhere)
    found = paddle.to_tensor([False])
    monkeypatch.setattr(paddle.amp.GradScaler, "_unscale", lambda self, _: setattr(self, "_found_inf", found))
    scaler = gradients.HybridParallelGradScaler(1024.0, ProcessGroup(0, 2))
    scaler._enable = True  # Paddle turns it off on a CPU
    scaler._unscale(None)
    assert bool(scaler._found_inf) == bool(elsewhere)
