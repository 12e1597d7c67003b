"""Where Paddle computes."""

import paddle

from paddle_glm.backends.base import EngineOptions
from paddle_glm.errors import InputError


def set_device(options: EngineOptions) -> None:
    """Make Paddle compute on the device, with the number of CPU threads.

    Raises `InputError` for a GPU that this installation or machine does not have.
    """
    if options.device == "cpu":
        paddle.set_device("cpu")
    else:
        count = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
        if options.device_id >= count:
            raise InputError(
                f"device gpu:{options.device_id}: {count} GPUs can be used here (paddlepaddle-gpu must be "
                "installed, and CUDA_VISIBLE_DEVICES name the card)"
            )
        paddle.set_device(f"gpu:{options.device_id}")
    # Paddle computes with one thread unless it is told otherwise.
    paddle.base.core.set_num_threads(options.usable_threads())
