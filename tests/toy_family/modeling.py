"""The blocks of the toy family: pre-norm, fully rotated heads, GELU."""

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import LayerCache
from paddle_glm.layers.activation import gelu_tanh
from paddle_glm.layers.attention import grouped_query_attention, split_qkv_per_head
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.norm import RMSNorm
from paddle_glm.layers.rotary import apply_rotary_interleaved, rotary_cos_sin, rotary_table
from paddle_glm.models.base import CausalLM
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    WeightFormat,
)
from paddle_glm.parallel.lm_head import LMHead, ParallelLMHead
from paddle_glm.precision import compute_dtype
from paddle_glm.sharding import column_parallel, row_parallel, vocab_parallel
from tests.toy_family.parameters import ffn, heads, qkv
from tests.toy_family.positions import rotary_dim


class Attention(nn.Layer):
    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.group, self.head_dim = group, config.head_dim
        self.qkv = ColumnParallelLinear(config.hidden_size, qkv(config), group, weight_format)
        self.out = RowParallelLinear(config.hidden_size, heads(config), group, weight_format)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None
    ) -> Tensor:
        query, key, value = split_qkv_per_head(self.qkv(x), self.head_dim)
        query, key = apply_rotary_interleaved(query, *rotary), apply_rotary_interleaved(key, *rotary)
        if cache is not None:
            key, value = cache.update(key, value)
        return self.out(grouped_query_attention(query, key, value, mask, self.group))


class Block(nn.Layer):
    """x + attention(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        hidden, epsilon = config.hidden_size, config.layernorm_epsilon
        self.norm1 = RMSNorm(hidden, epsilon, weight_format.dtype)
        self.attention = Attention(config, group, weight_format)
        self.norm2 = RMSNorm(hidden, epsilon, weight_format.dtype)
        self.up = ColumnParallelLinear(hidden, column_parallel(ffn(config)), group, weight_format)
        self.down = RowParallelLinear(hidden, row_parallel(ffn(config)), group, weight_format)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None = None
    ) -> Tensor:
        x = x + self.attention(self.norm1(x), rotary, mask, cache)
        return x + self.down(gelu_tanh(self.up(self.norm2(x))))


class ToyModel(CausalLM):
    def __init__(
        self, config: ModelConfig, dtype: str = "float32", group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        super().__init__(config, dtype, group)
        hidden, vocab = config.hidden_size, vocab_parallel(config.vocab_size)
        self.words = VocabParallelEmbedding(hidden, vocab, group, self.weight_format)
        self.layers = nn.LayerList(
            [Block(config, group, self.weight_format) for _ in range(config.num_layers)]
        )
        self.norm = RMSNorm(hidden, config.layernorm_epsilon, dtype)
        self.lm_head = ParallelLMHead(hidden, vocab, group, self.weight_format)
        self.register_buffer("rotary_table", paddle.to_tensor(self.build_rotary_table()), persistable=False)

    def build_rotary_table(self) -> np.ndarray:
        return rotary_table(self.config.max_sequence_length, rotary_dim(self.config))

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.words(input_ids)

    def blocks(self) -> list[nn.Layer]:
        return list(self.layers)

    def position_embeddings(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_cos_sin(self.rotary_table, position_ids, compute_dtype(self.weight_dtype))

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def head(self) -> LMHead:
        return self.lm_head
