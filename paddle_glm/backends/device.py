"""Where Paddle computes."""

import paddle

from paddle_glm.backends.base import EngineOptions
from paddle_glm.hardware import use_device


def set_device(options: EngineOptions) -> str:
    """Make Paddle compute on the device, with the number of CPU threads; returns Paddle's name of it.

    Raises `InputError` for a GPU that this installation or machine does not have.
    """
    device = use_device(options.device, options.device_id)
    # Paddle computes with one thread unless it is told otherwise.
    paddle.base.core.set_num_threads(options.num_threads())
    return device
