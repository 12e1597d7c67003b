"""Speed of `merge` compared with `cp` of the same bytes, and its memory.

    python benchmarks/merge.py --size-gb 12.5 --folder /tmp/merge_benchmark

Writes four tensor-parallel shards in ChatGLM2-6B's shapes (fewer layers for a smaller size), then copies
and merges them, each in a process of its own, with the source dropped from the page cache before.
With --paddlenlp, PaddleNLP merges the same weights with its own functions, as its
llm/tools/merge_tp_params.py does, which holds all of them: give a size that fits into memory, and --degree 2
(it cannot cut ChatGLM2's two key/value groups over more).
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from paddle_glm.array_types import Array  # noqa: E402
from paddle_glm.checkpoint import LazyTensor, atomic_folder, save_tp_shard  # noqa: E402
from paddle_glm.checkpoint.reshard import reshard  # noqa: E402
from paddle_glm.config import ModelConfig  # noqa: E402
from paddle_glm.models.family import family_of  # noqa: E402

# Equivalent of PaddleNLP's llm/tools/merge_tp_params.py for ChatGLM2.
PADDLENLP_MERGE = """
import os, sys
import paddle
from paddlenlp.transformers import ChatGLMv2Config, ChatGLMv2ForCausalLM

source, target = sys.argv[1:]
config = ChatGLMv2Config.from_pretrained(source)
actions = ChatGLMv2ForCausalLM._get_tensor_parallel_mappings(config, is_split=False)
shards = [
    paddle.load(f"{source}/model_state.tp{rank:02d}.pdparams", return_numpy=True)
    for rank in range(config.tensor_parallel_degree)
]
merged = {}
for name in list(shards[0]):
    pieces = [shard.pop(name) for shard in shards]
    action = actions.get(name.removeprefix("chatglm_v2."))
    merged[name] = pieces[0] if action is None else action(pieces)
os.mkdir(target)
paddle.save(merged, f"{target}/model_state.pdparams")
"""
BLOCK = np.random.default_rng(0).integers(0, 2**16, 1 << 21, np.uint16).view(np.float16)


def random_chunks(count: int, seed: int) -> Iterator[Array]:
    """`count` float16 values of random bits, generated faster than the measured work."""
    while count:
        block = np.roll(BLOCK, seed)[:count]
        yield block
        count -= block.size
        seed += 1


def make_shards(folder: Path, config: ModelConfig, degree: int) -> int:
    """Write synthetic float16 shards; return their size in bytes."""
    table = family_of(config).parameters(config)
    total = 0
    with atomic_folder(folder) as temporary:
        config.save_pretrained(temporary)
        for rank in range(degree):
            tensors = {}
            for number, (name, spec) in enumerate(table.items()):
                shape = spec.sharding.local_shape(spec.shape, rank, degree)
                count, seed = int(np.prod(shape)), rank * len(table) + number
                tensors[name] = LazyTensor(BLOCK.dtype, shape, partial(random_chunks, count, seed))
            total += sum(tensor.nbytes for tensor in tensors.values())
            save_tp_shard(temporary, rank, degree, tensors.items())
    return total


def num_layers_for(size_gb: float) -> int:
    """The number of float16 layers of ChatGLM2-6B closest to `size_gb`."""
    config = ModelConfig()
    table = family_of(config).parameters(config)
    layer = sum(int(np.prod(spec.shape)) for name, spec in table.items() if ".layers.0." in name)
    rest = 2 * config.vocab_size * config.hidden_size
    return max(1, round((size_gb * 1e9 / 2 - rest) / layer))


def drop_page_cache(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run_timed(command: list[str]) -> tuple[float, int]:
    """Run a command; return seconds and peak anonymous memory in bytes (without page cache)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{command} failed with exit code {process.returncode}")
    return time.perf_counter() - start, peak


def anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    values = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
    return int(values[0]) * 1024 if values else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-gb", type=float, default=2.0)
    parser.add_argument("--degree", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/merge_benchmark"))
    parser.add_argument("--paddlenlp", action="store_true", help="let PaddleNLP merge the same weights")
    parser.add_argument("--rounds", type=int, default=1, help="repeat, since disks are noisy")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    source, copy, merged = args.folder / "shards", args.folder / "copy", args.folder / "merged"
    merge = [sys.executable, "-m", "paddle_glm.main", "merge", "--model_name_or_path", str(source)]
    commands = {
        "cp": (["cp", "-r", str(source), str(copy)], copy),
        "cp and sync": (["sh", "-c", f"cp -r {source} {copy} && sync {copy}/* {copy}"], copy),
        "merge": ([*merge, "--merge_model_path", str(merged)], merged),
    }
    sources = {name: source for name in commands}
    if args.paddlenlp:
        its = args.folder / "its_shards"
        paddle = [sys.executable, "-m", "paddle_glm.main", "merge", "--model_name_or_path", str(its)]
        commands |= {
            "PaddleNLP": ([sys.executable, "-c", PADDLENLP_MERGE, str(its), str(merged)], merged),
            "merge of its shards": ([*paddle, "--merge_model_path", str(merged)], merged),
        }
        sources |= {"PaddleNLP": its, "merge of its shards": its}
    config = replace(ModelConfig(dtype="float16"), num_layers=num_layers_for(args.size_gb))
    try:
        total = make_shards(source, config, args.degree)
        print(f"{total / 1e9:.2f} GB in {args.degree} shards")
        if args.paddlenlp:
            reshard(source, its, args.degree, file_format="pdparams")
        for number in range(args.rounds):
            for name, (command, target) in commands.items():
                # Flush dirty pages of earlier steps first.
                os.sync()
                drop_page_cache(sources[name])
                seconds, peak = run_timed(command)
                shutil.rmtree(target)
                speed = f"{total / seconds / 1e9:.2f} GB/s"
                print(
                    f"round {number}: {name:20} {seconds:6.1f} s  {speed}  anonymous {peak / 2**20:.0f} MiB",
                    flush=True,
                )
    finally:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
