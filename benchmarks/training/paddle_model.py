"""paddle_glm's ChatGLM2 with the optimizer, clipping and settings of `paddle-glm finetune`.

A worker of `benchmarks/model.py`; see `worker.py`.
"""

import numpy as np
import paddle

from benchmarks.training.worker import Job, serve
from paddle_glm.allocator import keep_freed_memory
from paddle_glm.auto.model import AutoModel
from paddle_glm.config import ModelConfig
from paddle_glm.hardware import use_device
from paddle_glm.models.family import family_of
from paddle_glm.parallel import init_parallel
from paddle_glm.training.gradients import HybridParallelClipGrad
from paddle_glm.training.optimizer import FusedAdamW


def main() -> None:
    job = Job.from_arguments()
    sizes = job.sizes
    use_device("cpu", cpu_threads=job.threads)
    # As `training.initialize` does.
    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    keep_freed_memory()
    group = init_parallel(job.degree).tensor
    config = ModelConfig(
        num_layers=sizes.layers,
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.groups,
        head_dim=sizes.hidden // sizes.heads,
        ffn_hidden_size=sizes.ffn,
        vocab_size=sizes.vocab,
        max_sequence_length=2048,
    )
    model = AutoModel.from_config(config, group=group)
    model.train()
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    decayed = {key for key, name in names.items() if not any(part in name for part in ("bias", "norm"))}
    optimizer = FusedAdamW(
        learning_rate=1e-4,
        parameters=model.parameters(),
        weight_decay=0.01,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=HybridParallelClipGrad(1.0, family_of(config).parameters(config), names, group),
    )
    ids = np.random.default_rng(0).integers(3, sizes.vocab, (sizes.batch, sizes.length))
    batch = paddle.to_tensor(ids)

    def step() -> None:
        model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.clear_grad()

    def decode() -> None:
        model.generate(batch, do_sample=False, eos_token_id=[], max_new_tokens=job.new_tokens)

    if job.new_tokens:
        model.eval()
    serve(decode if job.new_tokens else step, job.rank)


if __name__ == "__main__":
    main()
