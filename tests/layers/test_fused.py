"""The models with Paddle's fused operators against the models without them: logits and gradients."""

import numpy as np
import paddle
import pytest

from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.kernels import gpu, usage
from paddle_glm.kv_cache.decode import DecodeLayer
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.decode import decodes
from paddle_glm.layers.fused_attention import attends_fused
from paddle_glm.models.base import CausalLM
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.peft.prefix import attach_prefix
from tests.fused_operators import use_fused_operators
from tests.reading import add_rows

SMALL = {"num_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "vocab_size": 100}
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
    np.testing.assert_allclose(found, expected, atol=8e-6 * np.abs(expected).max(), rtol=0, err_msg=name)


def logits(model: CausalLM) -> np.ndarray:
    with paddle.no_grad():
        logits = model(paddle.to_tensor(IDS), attention_mask=paddle.to_tensor(MASK)).logits.numpy()
    return logits[MASK > 0]  # what padding gives is nobody's, and differs


def gradients(model: CausalLM) -> dict[str, np.ndarray]:
    model.train()
    model.clear_gradients()
    labels = paddle.to_tensor(np.where(MASK > 0, IDS, -100))
    labels[1, 2] = -100  # padding would predict it
    model(paddle.to_tensor(IDS), attention_mask=paddle.to_tensor(MASK), labels=labels).loss.backward()
    trained = {name: one for name, one in model.named_parameters() if not one.stop_gradient}
    return {name: one.grad.numpy() for name, one in trained.items()}


def test_inference(model, monkeypatch):
    expected = logits(model)
    calls = use_fused_operators(monkeypatch)
    close(logits(model), expected)
    if model.config.family == "chatglm2":
        # Two blocks with two norms, the second of which adds, and the last norm.
        assert calls.counts == {"rms_norm": 3, "add_rms_norm": 2, "rotary": 4, "swiglu": 2, "attention": 2}
    else:
        assert calls.counts == {"rotary": 8, "layer_norm": 5, "attention": 2}


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients(model, frozen, monkeypatch):
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = frozen and "query_key_value" not in name
    with monkeypatch.context() as plain:
        plain.setenv("PADDLE_GLM_KERNELS", "0")
        expected = gradients(model)
    calls = use_fused_operators(monkeypatch)
    found = gradients(model)
    assert found.keys() == expected.keys() and calls.counts["rotary"] and calls.counts["attention"] == 2
    for name, gradient in found.items():
        close(gradient, expected[name], name)


def generated(model: CausalLM, cache_limit: int | None = None) -> list[np.ndarray]:
    """Logits of a prompt and nine tokens, between which rows change as in beam search and in serving."""
    backend = DygraphBackend(model)
    if cache_limit is not None:
        backend.limit_cache(cache_limit)
    found = [backend.prefill(IDS, MASK)]
    for step in range(9):
        if step == 3:
            backend.select(np.array([1, 0, 1]))
        if step == 6:
            found.append(add_rows(backend, IDS[:1], MASK[:1]))
        rows = 2 if step < 3 else 3 if step < 6 else 4
        found.append(backend.decode(np.arange(rows) + step + 4))
    return found


@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize(
    ("cache_limit", "operator", "other"), [(None, "decode", "pages"), (1 << 22, "pages", "decode")]
)
def test_decoding(model, prefix, cache_limit, operator, other, monkeypatch):
    model.eval()
    if prefix:
        attach_prefix(model, prefix, projection=False)
        model.eval()
    expected = generated(model)
    calls = use_fused_operators(monkeypatch)
    for found, plain in zip(generated(model, cache_limit), expected, strict=True):
        close(found, plain)
    assert calls.counts[operator] == 2 * 9 and other not in calls.counts


def test_what_fused_decoding_leaves_to_others(monkeypatch):
    use_fused_operators(monkeypatch)
    monkeypatch.setattr(usage, "_HALF", (paddle.float16, paddle.bfloat16))
    cache = DecodeLayer(*paddle.zeros([2, 1, 2, 5, 32], dtype="float16").unbind())

    def taken(tokens: int = 1, dtype: str = "float16", scaling: float = 1.0, size: int = 32) -> bool:
        query = paddle.zeros([1, 4, tokens, size], dtype=dtype)
        with paddle.no_grad():
            return decodes(query, query[:, :2], cache, scaling)

    assert taken() and taken(dtype="bfloat16", scaling=2.0)
    assert not taken(scaling=2.0), "scores of ChatGLM-6B's later layers may overflow float16"
    assert not taken(tokens=2) and not taken(dtype="float32") and not taken(size=48)
    cache.replace(*paddle.zeros([2, 1, 2, 0, 32], dtype="float16").unbind())
    assert not taken()


@pytest.mark.parametrize(
    ("capability", "head_dim", "taken"), [(75, 64, False), (80, 64, True), (90, 60, False)]
)
def test_what_fused_attention_leaves_to_others(capability, head_dim, taken, monkeypatch):
    use_fused_operators(monkeypatch)
    monkeypatch.setattr(gpu, "capability", lambda: capability)
    assert gpu.can_attend(head_dim, 0.0) == taken
    monkeypatch.setattr(gpu, "_flash_version", lambda: 3)
    assert not gpu.can_attend(head_dim, 0.1)
    mask = AttentionMask(paddle.ones([1, 8], "int64"), 8)
    operand = paddle.zeros([1, 2, 8, head_dim])
    assert attends_fused(operand, operand, operand, mask, 0.0) == taken
    pairs = AttentionMask(paddle.ones([1, 1, 8, 8], "bool"), 8)
    assert not attends_fused(operand, operand, operand, pairs, 0.0)
    assert not attends_fused(operand[:, :, :1], operand, operand, mask, 0.0), "decoding has its own"


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
