"""What tests of quantised models share."""

from dataclasses import replace

import numpy as np

from paddle_glm.auto.model import AutoModel
from paddle_glm.models.base import CausalLM
from paddle_glm.quantization import dequantize


def dequantized(model: CausalLM) -> CausalLM:
    """A float model of the weights that a whole quantised one stands for."""
    bits = model.config.quantization_bit
    floats = AutoModel.from_config(replace(model.config, quantization_bit=0, pre_seq_len=None))
    kept = dict(model.named_parameters())
    for name, parameter in floats.named_parameters():
        values = kept[name].numpy()
        if values.dtype == np.int8:
            values = dequantize(values, kept[f"{name}_scale"].numpy(), bits)
        parameter.set_value(values)
    return floats
