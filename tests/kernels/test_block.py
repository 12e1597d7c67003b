"""Operators of half a block give the bits of the single operators; hooks are called."""

import numpy as np
import paddle
import pytest
from paddle import Tensor

from paddle_glm.auto.model import AutoModel
from paddle_glm.generation import GenerationParams, generate_batch
from paddle_glm.kernels import operators
from paddle_glm.kernels.library import kernel_library
from paddle_glm.kernels.operators import CacheBuffers, LinearWeight
from paddle_glm.kernels.packing import pack
from paddle_glm.models.dygraph import DygraphBackend
from paddle_glm.quantization import quantize

pytestmark = pytest.mark.skipif(
    kernel_library() is None, reason="no compiler for the kernels: apt-get install g++"
)
RANDOM = np.random.default_rng(0)
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, HALF, INNER = 96, 4, 2, 16, 4, 80
NORM = 1e-5


def random(*shape: int) -> Tensor:
    return paddle.to_tensor(RANDOM.standard_normal(shape).astype(np.float32))


def weight(kind: str, rows: int, columns: int) -> LinearWeight:
    values = random(rows, columns)
    if "float" in kind:
        return LinearWeight(values.astype(kind))
    bits = int(kind.removeprefix("int"))
    packed, scale = quantize(values.numpy(), bits, 16 if bits == 4 else None)
    pack(packed, scale, bits)
    return LinearWeight(paddle.to_tensor(packed), paddle.to_tensor(scale), bits)


def multiplied(x: Tensor, by: LinearWeight) -> Tensor:
    if by.scale is None:
        return operators.float_linear(x, by.values)
    return operators.quantized_linear(x, by.values, by.scale, by.bits)


@pytest.mark.parametrize(
    "kinds", [("int4", "int4"), ("int8", "int8"), ("float16", "int4"), ("bfloat16",) * 2, ("float32",) * 2]
)
@pytest.mark.parametrize("batch, tokens", [(1, 1), (2, 3), (2, 150)])
@pytest.mark.parametrize("bias", [None, "float32", "float16"])
def test_blocks(kinds: tuple[str, str], batch: int, tokens: int, bias: str | None) -> None:
    x, past = random(batch, tokens, HIDDEN), paddle.to_tensor([2])
    norm = random(HIDDEN).astype("float16")
    channels = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    qkv, dense = weight(kinds[0], channels, HIDDEN), weight(kinds[1], HIDDEN, HEADS * HEAD_DIM)
    added = None if bias is None else random(channels).astype(bias)
    rotary = random(batch, 1, tokens, HALF), random(batch, 1, tokens, HALF)
    mask = random(batch, 1, tokens, tokens + 2)
    buffers = [random(batch, KV_HEADS, tokens + 4, HEAD_DIM) for _ in range(2)]
    copies = [buffer.clone() for buffer in buffers]
    fused = multiplied(operators.rms_norm(x, norm, NORM), qkv)
    if added is not None:
        fused = fused + added.astype("float32")
    query = operators.append_rotary(fused, *rotary, *copies, past, HEADS, KV_HEADS)
    attended = operators.cached_attention(query, *copies, mask, past, HEAD_DIM**-0.5)
    expected = multiplied(attended, dense)
    arguments = (x, (norm, NORM), qkv, added, rotary, CacheBuffers(*buffers, mask, past), dense, HEADS)
    alone = operators.attention_block(*arguments, add_input=False)
    assert (alone.numpy() == expected.numpy()).all()
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(buffers, copies, strict=True))
    y = operators.attention_block(*arguments, add_input=True)
    assert (y.numpy() == (x + expected).numpy()).all()

    up, down = weight(kinds[0], 2 * INNER, HIDDEN), weight(kinds[1], HIDDEN, INNER)
    expected = multiplied(operators.swiglu(multiplied(operators.rms_norm(x, norm, NORM), up)), down)
    assert (operators.mlp_block(x, (norm, NORM), up, down, False).numpy() == expected.numpy()).all()
    assert (operators.mlp_block(x, (norm, NORM), up, down, True).numpy() == (x + expected).numpy()).all()


def test_weights_that_do_not_fit_are_refused() -> None:
    up, down = weight("int4", 2 * INNER, HIDDEN), weight("int4", HIDDEN, 64)
    with pytest.raises(OSError, match=f"has {2 * INNER} outputs: expected 128"):
        operators.mlp_block(random(1, 1, HIDDEN), (random(HIDDEN), NORM), up, down, True)


@pytest.mark.parametrize("part", ["input_layernorm", "self_attention.dense", "mlp", "mlp.dense_4h_to_h"])
def test_hooks_see_their_layer(part: str, tiny_checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModel.from_pretrained(tiny_checkpoint).quantize(4, 32)
    params = GenerationParams(max_new_tokens=4, do_sample=False)
    expected = generate_batch(DygraphBackend(model), [[15, 16, 17]], params)
    layer = model.blocks()[0]
    for name in part.split("."):
        layer = getattr(layer, name)
    seen: list[Tensor] = []
    hook = layer.register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    blocks: list[int] = []
    fused = operators.mlp_block
    monkeypatch.setattr(operators, "mlp_block", lambda *a, **b: (blocks.append(1), fused(*a, **b))[1])
    assert generate_batch(DygraphBackend(model), [[15, 16, 17]], params) == expected
    assert len(seen) == 4 and len(blocks) == 4 * (len(model.blocks()) - 1)
    hook.remove()
