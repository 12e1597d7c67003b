"""int8 and int4 weights against a float model whose weights are the same integers, dequantised."""

from functools import partial
from pathlib import Path

from paddle_glm.auto.model import AutoModel
from paddle_glm.checkpoint import atomic_folder, open_checkpoint, save_checkpoint
from paddle_glm.checkpoint.quantize_on_load import quantize_on_load
from paddle_glm.doctor.model_checks import GRADIENTS, LOGITS, check_half_precision, exact_products
from paddle_glm.doctor.recorded import (
    compute_gradients,
    compute_logits,
    compute_tokens,
    gradient_error,
    prepare_training,
    relative_error,
)
from paddle_glm.doctor.registry import Context, Finding, check
from paddle_glm.doctor.tiny_models import FAMILIES, model_folder
from paddle_glm.quantization import dequantize, quantization_of, quantize

# On a CPU products round their inputs to int8 unless PADDLE_GLM_ARITHMETIC says otherwise.
_INT8_PRODUCTS = 0.1


def dequantised_folder(context: Context, family: str, bits: int, embeddings: bool) -> Path:
    """A float32 model with the numbers that the quantised one stands for."""
    folder = context.folder / f"{family}-int{bits}-{embeddings}"
    if not folder.is_dir():
        floats = open_checkpoint(model_folder(context.folder, family))
        quantization = quantization_of(quantize_on_load(floats, bits, embeddings=embeddings).config)
        assert quantization is not None
        with atomic_folder(folder) as target:
            floats.config.save_pretrained(target)
            tensors = {name: floats.read(name) for name in floats.names()}
            for name, spec in floats.parameter_specs.items():
                if quantization.applies_to(spec):
                    packed, scale = quantize(tensors[name], bits, quantization.group_size)
                    tensors[name] = dequantize(packed, scale, bits)
            save_checkpoint(target, tensors.items())
    return folder


def quantised(
    family: str, bits: int, dtype: str, embeddings: bool, limit: float, context: Context
) -> Finding:
    """Logits, and logits while decoding."""
    check_half_precision(dtype)
    reference = AutoModel.from_pretrained(
        dequantised_folder(context, family, bits, embeddings), dtype="float32"
    )
    model = AutoModel.from_pretrained(
        model_folder(context.folder, family),
        dtype=dtype,
        quantization_bit=bits,
        quantization_embeddings=embeddings,
    )
    found = Finding()
    with exact_products():
        found.measure("logits", relative_error(compute_logits(model), compute_logits(reference)), limit)
        theirs = compute_tokens(reference)
        ours = compute_tokens(model, forced=theirs["tokens"])
    found.measure("logits while decoding", relative_error(ours["logits"], theirs["logits"]), limit)
    return found


def lora_beside(bits: int, dtype: str, context: Context) -> Finding:
    """Gradients of LoRA beside quantised weights."""
    check_half_precision(dtype)
    results = []
    folder = dequantised_folder(context, "chatglm2", bits, False)
    for path, options in (
        (folder, {"dtype": "float32"}),
        (model_folder(context.folder, "chatglm2"), {"dtype": dtype, "quantization_bit": bits}),
    ):
        model = AutoModel.from_pretrained(path, **options)
        prepare_training(model, "lora")
        with exact_products():
            results.append(compute_gradients(model)["gradients"])
    found = Finding()
    error, worst = gradient_error(results[1], results[0])
    found.measure("gradients of LoRA", error, GRADIENTS[dtype])
    found.facts["largest error"] = worst
    return found


for _bits in (8, 4):
    for _family in FAMILIES:
        _options = {"devices": ("cpu",), "environment": {"PADDLE_GLM_ARITHMETIC": "float32"}}
        check("quantisation", f"{_family} in int{_bits}, float32 products", **_options)(
            partial(quantised, _family, _bits, "float32", False, LOGITS["float32"])
        )
        check("quantisation", f"{_family} in int{_bits}, default products", devices=("cpu",))(
            partial(quantised, _family, _bits, "float32", False, _INT8_PRODUCTS)
        )
        for _dtype in LOGITS:
            check("quantisation", f"{_family} in int{_bits}, {_dtype}", devices=("gpu",))(
                partial(quantised, _family, _bits, _dtype, False, LOGITS[_dtype])
            )
    check("quantisation", f"chatglm2 in int{_bits} with embeddings")(
        partial(quantised, "chatglm2", _bits, "float32", True, _INT8_PRODUCTS)
    )
    check("quantisation", f"LoRA beside int{_bits}", environment={"PADDLE_GLM_ARITHMETIC": "float32"})(
        partial(lora_beside, _bits, "float32")
    )
    for _dtype in ("bfloat16", "float16"):
        check("quantisation", f"LoRA beside int{_bits}, {_dtype}", devices=("gpu",))(
            partial(lora_beside, _bits, _dtype)
        )
