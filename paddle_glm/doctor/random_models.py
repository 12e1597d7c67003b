"""Models of any size with random weights, made on the device in seconds."""

import paddle

from paddle_glm.config import ModelConfig
from paddle_glm.models.base import CausalLM
from paddle_glm.models.family import family_of
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup

_STD = 0.02


@paddle.no_grad()
def random_model(config: ModelConfig, dtype: str, group: ProcessGroup = SINGLE_PROCESS) -> CausalLM:
    """In evaluation mode: matrices normal(0, 0.02), norms and scales constant, quantised weights uniform."""
    paddle.seed(0)
    model: CausalLM = family_of(config).model_class()(config, dtype, group)
    for name, parameter in model.named_parameters():
        if parameter.dtype == paddle.int8:
            value = paddle.randint(-128, 128, parameter.shape, dtype="int32").astype("int8")
        elif name.endswith("scale"):
            # A random integer of b bits is about 2 ** b / sqrt(12).
            value = paddle.full(parameter.shape, _STD * 12**0.5 / 2**config.quantization_bit, "float32")
        elif parameter.ndim == 1:
            value = paddle.full(parameter.shape, 0.0 if name.endswith("bias") else 1.0, parameter.dtype)
        else:
            value = (paddle.randn(parameter.shape) * _STD).astype(parameter.dtype)
        parameter.set_value(value)
    model.eval()
    return model
