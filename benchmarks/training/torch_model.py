"""ChatGLM2 in plain PyTorch, as its original is written, with Megatron's tensor parallelism.

Needs PyTorch alone. A worker of `benchmarks/model.py`; see `worker.py`.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.training.worker import Job, Sizes, serve


class CopyToGroup(torch.autograd.Function):
    """Forward: the identity. Backward: the gradient summed over the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad


class ReduceFromGroup(torch.autograd.Function):
    """Forward: the sum over the processes. Backward: the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """x [batch, tokens, heads, head_dim], table [tokens, 1, head_dim / 4, 2]: rotates half of each head."""
    size = x.shape[-1] // 2
    rotated, rest = x[..., :size], x[..., size:]
    pairs = rotated.reshape(*x.shape[:-1], size // 2, 2)
    turned = torch.stack(
        [
            pairs[..., 0] * table[..., 0] - pairs[..., 1] * table[..., 1],
            pairs[..., 1] * table[..., 0] + pairs[..., 0] * table[..., 1],
        ],
        -1,
    )
    return torch.cat((turned.flatten(3), rest), dim=-1)


class Block(nn.Module):
    def __init__(self, sizes: Sizes, degree: int) -> None:
        super().__init__()
        self.heads, self.groups = sizes.heads // degree, sizes.groups // degree
        self.head_dim, self.degree = sizes.hidden // sizes.heads, degree
        qkv = (self.heads + 2 * self.groups) * self.head_dim
        self.input_layernorm = RMSNorm(sizes.hidden)
        self.query_key_value = nn.Linear(sizes.hidden, qkv)
        self.dense = nn.Linear(self.heads * self.head_dim, sizes.hidden, bias=False)
        self.post_attention_layernorm = RMSNorm(sizes.hidden)
        self.dense_h_to_4h = nn.Linear(sizes.hidden, 2 * sizes.ffn // degree, bias=False)
        self.dense_4h_to_h = nn.Linear(sizes.ffn // degree, sizes.hidden, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = x + self.reduced(self.attention(self.copied(self.input_layernorm(x)), table))
        gate, up = self.dense_h_to_4h(self.copied(self.post_attention_layernorm(x))).chunk(2, dim=-1)
        return x + self.reduced(self.dense_4h_to_h(F.silu(gate) * up))

    def attention(self, x: Tensor, table: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        sizes = [heads * self.head_dim for heads in (self.heads, self.groups, self.groups)]
        query, key, value = (
            part.view(batch, tokens, -1, self.head_dim)
            for part in self.query_key_value(x).split(sizes, dim=-1)
        )
        query, key = apply_rotary(query, table), apply_rotary(key, table)
        key, value = (
            part.unsqueeze(3)
            .expand(-1, -1, -1, self.heads // self.groups, -1)
            .reshape(batch, tokens, self.heads, self.head_dim)
            for part in (key, value)
        )
        context = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True
        )
        return self.dense(context.transpose(1, 2).reshape(batch, tokens, -1))

    def copied(self, x: Tensor) -> Tensor:
        return x if self.degree == 1 else CopyToGroup.apply(x)

    def reduced(self, x: Tensor) -> Tensor:
        return x if self.degree == 1 else ReduceFromGroup.apply(x)


class ChatGLM2(nn.Module):
    """Embedding and head are replicated where the blocks are sharded."""

    def __init__(self, sizes: Sizes, degree: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sizes.vocab, sizes.hidden)
        self.layers = nn.ModuleList(Block(sizes, degree) for _ in range(sizes.layers))
        self.final_layernorm = RMSNorm(sizes.hidden)
        self.output_layer = nn.Linear(sizes.hidden, sizes.vocab, bias=False)
        size = sizes.hidden // sizes.heads // 2
        angles = torch.outer(torch.arange(sizes.length), 10000.0 ** -(torch.arange(0, size, 2) / size))
        self.register_buffer("table", torch.stack([angles.cos(), angles.sin()], -1).unsqueeze(1))

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.table)
        logits = self.output_layer(self.final_layernorm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def clip_gradients(model: nn.Module, degree: int, limit: float = 1.0) -> None:
    """Clip by the global norm; with tensor parallelism the blocks' gradients are shards."""
    if degree == 1:
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        return
    sharded = {id(one) for layer in model.layers for part in layer.children() for one in part.parameters()}
    squares = [torch.zeros(()), torch.zeros(())]
    for parameter in model.parameters():
        squares[id(parameter) in sharded] += parameter.grad.square().sum()
    dist.all_reduce(squares[1])
    scale = (limit / ((squares[0] + squares[1]).sqrt() + 1e-6)).clamp(max=1.0)
    for parameter in model.parameters():
        parameter.grad.mul_(scale)


def main() -> None:
    job = Job.from_arguments()
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    if job.degree > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job.port)}
        dist.init_process_group("gloo", rank=job.rank, world_size=job.degree)
    model = ChatGLM2(job.sizes, job.degree)
    decayed = [one for one in model.parameters() if one.ndim > 1]
    others = [one for one in model.parameters() if one.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    ids = torch.randint(3, job.sizes.vocab, (job.sizes.batch, job.sizes.length))

    def step() -> None:
        model(ids, ids).backward()
        clip_gradients(model, job.degree)
        optimizer.step()
        optimizer.zero_grad()

    serve(step, job.rank)


if __name__ == "__main__":
    main()
