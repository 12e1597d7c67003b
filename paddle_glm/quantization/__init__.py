"""Weight-only quantisation to int8 and int4 in THUDM's format; needs numpy only."""

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
    QuantizationConfig,
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
    "QuantizationConfig",
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
