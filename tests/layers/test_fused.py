"""The models with Paddle's fused operators against the models without them: logits and gradients."""

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.kernels import usage
from paddle_glm.models.base import CausalLM
from tests.fused_operators import use_fused_operators

SMALL = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "vocab_size": 100}
CONFIGS = {
    "chatglm2": ModelConfig(**SMALL, num_key_value_heads=2, ffn_hidden_size=96),
    "chatglm": ModelConfig(
        family="chatglm",
        **SMALL,
        num_key_value_heads=4,
        ffn_hidden_size=128,
        position_encoding_2d=True,
        bos_token_id=90,
        eos_token_id=91,
        mask_token_id=92,
        gmask_token_id=93,
    ),
}
IDS = np.array([[5, 8, 7, 93, 90, 21, 33, 60], [3, 3, 9, 93, 90, 4, 6, 11]])
MASK = np.array([[1] * 8, [0, 0] + [1] * 6])


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> CausalLM:
    """Weights are large enough for attention to choose."""
    model = AutoModel.from_config(CONFIGS[request.param])
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        center, spread = (1, 0.2) if "norm" in name and "bias" not in name else (0, 0.2)
        parameter.set_value(generator.normal(center, spread, parameter.shape).astype("float32"))
    return model


def close(found: np.ndarray, expected: np.ndarray, name: str = "") -> None:
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max(), rtol=0, err_msg=name)


def logits(model: CausalLM) -> np.ndarray:
    with paddle.no_grad():
        return model(paddle.to_tensor(IDS), attention_mask=paddle.to_tensor(MASK)).logits.numpy()


def gradients(model: CausalLM) -> dict[str, np.ndarray]:
    model.train()
    model.clear_gradients()
    model(
        paddle.to_tensor(IDS), attention_mask=paddle.to_tensor(MASK), labels=paddle.to_tensor(IDS)
    ).loss.backward()
    trained = {name: one for name, one in model.named_parameters() if not one.stop_gradient}
    return {name: one.grad.numpy() for name, one in trained.items()}


def test_inference(model, monkeypatch):
    expected = logits(model)
    calls = use_fused_operators(monkeypatch)
    close(logits(model), expected)
    if model.config.family == "chatglm2":
        # Two blocks with two norms, the second of which adds, and the last norm.
        assert calls.counts == {"rms_norm": 3, "add_rms_norm": 2, "rotary": 4, "swiglu": 2}
    else:
        assert calls.counts == {"rotary": 8}


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients(model, frozen, monkeypatch):
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = frozen and "query_key_value" not in name
    with monkeypatch.context() as plain:
        plain.setenv("PADDLE_GLM_KERNELS", "0")
        expected = gradients(model)
    calls = use_fused_operators(monkeypatch)
    found = gradients(model)
    assert found.keys() == expected.keys() and calls.counts["rotary"]
    for name, gradient in found.items():
        close(gradient, expected[name], name)


def test_plain_operators(model, monkeypatch):
    calls = use_fused_operators(monkeypatch)
    with usage.plain_operators():
        logits(model)
    monkeypatch.setenv("PADDLE_GLM_KERNELS", "0")
    logits(model)
    assert not calls.counts


def test_only_half_precision_of_one_dtype_on_a_gpu(monkeypatch):
    half = paddle.zeros([2], dtype="bfloat16")
    assert not usage.fused(half)
    monkeypatch.setattr(usage, "on_gpu", lambda tensor: True)
    assert usage.fused(half, half)
    assert not usage.fused(half, half.astype("float16")) and not usage.fused(half.astype("float32"))
