"""Worker: finetunes several times in the same processes, because their start takes longest.

Argument: a JSON list of runs, each the flags of `finetune` and, where it begins from another run's files,
`copy`: the folder or file to take, and where to put it.
"""

import json
import shutil
import sys
from pathlib import Path

import paddle.distributed as dist

from paddle_glm.commands.finetune import train
from paddle_glm.parallel import init_parallel
from paddle_glm.parallel.shutdown import exit_all_ranks


def main() -> None:
    runs = json.loads(sys.argv[1])
    init_parallel()
    for run in runs:
        if "copy" in run and dist.get_rank() == 0:
            source, target = map(Path, run["copy"])
            target.parent.mkdir(exist_ok=True)
            shutil.copytree(source, target)
        dist.barrier()
        train(run["flags"])
    exit_all_ranks(0)


main()
