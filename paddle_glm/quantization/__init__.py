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

__all__ = [
    "BITS",
    "Quantized",
    "default_group_size",
    "dequantize",
    "pack_int4",
    "quantize",
    "unpack_int4",
]
