"""Weights as small integers and scales (weight-only quantisation), in THUDM's format; numpy alone."""

from paddle_glm.quantization.packing import (
    BITS,
    Quantized,
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
    quantized_table,
    scale_of,
    weight_of,
    with_quantization,
)

__all__ = [
    "BITS",
    "SCALE",
    "WEIGHT",
    "Quantization",
    "Quantized",
    "default_group_size",
    "dequantize",
    "pack_int4",
    "quantization_of",
    "quantize",
    "quantized_table",
    "scale_of",
    "unpack_int4",
    "weight_of",
    "with_quantization",
]
