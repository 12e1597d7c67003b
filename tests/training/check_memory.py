"""Worker: finetunes as each line of flags on standard input says.

Prints the most bytes that tensors took in each run. Paddle counts what its allocator hands out, on the host
too: the interpreter and the libraries are not in it.
"""

import gc
import sys

from paddle.base import core

from paddle_glm.commands.finetune import train


def main() -> None:
    for line in sys.stdin:
        gc.collect()
        before = core.host_memory_stat_current_value("Allocated", 0)
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        train(line.split())
        print("RESULT", core.host_memory_stat_peak_value("Allocated", 0) - before, flush=True)


main()
