"""PaddleNLP's ChatGLM2, in one process: its tensor parallelism does not run on CPUs.

A worker of `benchmarks/model.py`; see `worker.py`.
"""

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import AdamW
from paddlenlp.transformers import ChatGLMv2Config, ChatGLMv2ForCausalLM

from benchmarks.training.worker import Job, serve


def main() -> None:
    job = Job.from_arguments()
    sizes = job.sizes
    paddle.set_device("cpu")
    paddle.base.core.set_num_threads(job.threads)
    model = ChatGLMv2ForCausalLM(
        ChatGLMv2Config(
            num_hidden_layers=sizes.layers,
            hidden_size=sizes.hidden,
            num_attention_heads=sizes.heads,
            multi_query_group_num=sizes.groups,
            kv_channels=sizes.hidden // sizes.heads,
            ffn_hidden_size=sizes.ffn,
            padded_vocab_size=sizes.vocab,
            seq_length=2048,
            use_cache=bool(job.new_tokens),
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    decayed = {parameter.name for parameter in model.parameters() if parameter.ndim > 1}
    optimizer = AdamW(
        learning_rate=1e-4,
        parameters=model.parameters(),
        weight_decay=0.01,
        apply_decay_param_fun=decayed.__contains__,
        grad_clip=nn.ClipGradByGlobalNorm(1.0),
    )
    ids = np.random.default_rng(0).integers(3, sizes.vocab, (sizes.batch, sizes.length))
    batch = paddle.to_tensor(ids)
    real = paddle.ones_like(batch)  # its default mask does not work in its next decoding step

    def step() -> None:
        output = model(batch, labels=batch)
        (output.loss if hasattr(output, "loss") else output[0]).backward()
        optimizer.step()
        optimizer.clear_grad()

    def decode() -> None:
        model.generate(
            batch, attention_mask=real, decode_strategy="greedy_search", max_new_tokens=job.new_tokens
        )

    if job.new_tokens:
        model.eval()
    else:
        model.train()
    serve(decode if job.new_tokens else step, job.rank)


if __name__ == "__main__":
    main()
