"""Weights as small integers and scales (weight-only quantisation), in THUDM's format; numpy alone."""

from paddle_glm.quantization.packing import (
    BITS,
    QuantizedWeight,
    default_group_size,
    dequantize,
    pack_int4,
    quantize,
    unpack_int4,
)
from paddle_glm.quantization.specs import (
    SCALE,
    WEIGHT,
    Quantization,
    quantization_of,
    quantized_specs,
    scale_name,
    weight_name,
    with_quantization,
)

__all__ = [
    "BITS",
    "SCALE",
    "WEIGHT",
    "Quantization",
    "QuantizedWeight",
    "default_group_size",
    "dequantize",
    "pack_int4",
    "quantization_of",
    "quantize",
    "quantized_specs",
    "scale_name",
    "unpack_int4",
    "weight_name",
    "with_quantization",
]
