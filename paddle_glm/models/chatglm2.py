"""ChatGLM2 and ChatGLM3: pre-norm blocks with grouped-query attention, half-rotated heads and SwiGLU.

Reproduces modeling_chatglm.py of THUDM/chatglm2-6b and THUDM/chatglm3-6b; modules carry its names, so
parameter names are those of hub checkpoints.
"""

from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.config import ModelConfig
from paddle_glm.families.chatglm2 import attention_output, ffn_output, gate_up, query_key_value
from paddle_glm.layers.activation import swiglu
from paddle_glm.layers.attention import grouped_query_attention, split_blocks, split_heads
from paddle_glm.layers.norm import RMSNorm
from paddle_glm.layers.rotary import apply_rotary, lookup_rotary, rotary_table
from paddle_glm.models.base import CausalLM, KeyValue
from paddle_glm.parallel import SINGLE, TPGroup
from paddle_glm.parallel.layers import ColumnLinear, Head, RowLinear, Storage, VocabEmbedding, VocabHead
from paddle_glm.precision import compute_dtype
from paddle_glm.sharding import Vocab


class SelfAttention(nn.Layer):
    """x [batch, tokens, hidden] -> the same shape, and this layer's keys and values."""

    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.group, self.dropout = group, config.attention_dropout
        sharding = query_key_value(config)
        self.query_key_value = ColumnLinear(
            config.hidden_size, sharding, group, storage, bias=config.add_qkv_bias
        )
        self.dense = RowLinear(config.hidden_size, attention_output(config), group, storage)
        self.split = partial(split_heads, head_dim=config.head_dim)
        if config.multi_query_attention:
            # Local rows of queries, keys and values.
            rows = [stop - start for start, stop in sharding.local_ranges(group.rank, group.degree)]
            self.split = partial(split_blocks, rows=rows, head_dim=config.head_dim)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        query, key, value = self.split(self.query_key_value(x))
        query, key = apply_rotary(query, *rotary), apply_rotary(key, *rotary)
        if past is not None:
            key = paddle.concat([past[0], key], axis=2)
            value = paddle.concat([past[1], value], axis=2)
        dropout = self.dropout if self.training else 0.0
        mixed = grouped_query_attention(query, key, value, mask, self.group, dropout)
        return self.dense(mixed), (key, value)


class MLP(nn.Layer):
    """SwiGLU between two projections; gate and up are fused in the first."""

    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.dense_h_to_4h = ColumnLinear(config.hidden_size, gate_up(config), group, storage)
        self.dense_4h_to_h = RowLinear(config.hidden_size, ffn_output(config), group, storage)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(swiglu(self.dense_h_to_4h(x)))


class Block(nn.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon, storage.dtype)
        self.self_attention = SelfAttention(config, group, storage)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon, storage.dtype)
        self.mlp = MLP(config, group, storage)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        attended, present = self.self_attention(self.input_layernorm(x), rotary, mask, past)
        x = x + self._drop(attended)
        return x + self._drop(self.mlp(self.post_attention_layernorm(x))), present

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, training=self.training) if self.dropout else x


class Embedding(nn.Layer):
    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.word_embeddings = VocabEmbedding(config.hidden_size, Vocab(config.vocab_size), group, storage)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.word_embeddings(input_ids)


class Encoder(nn.Layer):
    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.layers = nn.LayerList([Block(config, group, storage) for _ in range(config.num_layers)])
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon, storage.dtype)


class Transformer(nn.Layer):
    def __init__(self, config: ModelConfig, group: TPGroup, storage: Storage) -> None:
        super().__init__()
        self.embedding = Embedding(config, group, storage)
        self.encoder = Encoder(config, group, storage)
        self.output_layer = VocabHead(config.hidden_size, Vocab(config.vocab_size), group, storage)


class ChatGLM2Model(CausalLM):
    """See `CausalLM` for what calling it takes and gives."""

    def __init__(self, config: ModelConfig, dtype: str = "float32", group: TPGroup = SINGLE) -> None:
        super().__init__(config, dtype, group)
        self.transformer = Transformer(config, group, self.storage)
        self.register_buffer("rotary_table", paddle.to_tensor(self.rotary_rows()), persistable=False)

    def rotary_rows(self) -> np.ndarray:
        config, ratio = self.config, self.config.rope_ratio
        rounded = self.dtype if self.family.half_precision_positions else "float32"
        scaled = {"base": 10000.0 * ratio} if self.family.rope_ratio_scales_base else {"stretch": ratio}
        return rotary_table(config.max_sequence_length, config.head_dim // 2, rounded, **scaled)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.transformer.embedding(input_ids)

    def blocks(self) -> list[nn.Layer]:
        return list(self.transformer.encoder.layers)

    def position_embeddings(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return lookup_rotary(self.rotary_table, position_ids, compute_dtype(self.stored_dtype))

    def final_norm(self, x: Tensor) -> Tensor:
        return self.transformer.encoder.final_layernorm(x)

    def head(self) -> Head:
        return self.transformer.output_layer
