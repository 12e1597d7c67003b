"""ChatGLM2 and ChatGLM3: pre-norm blocks, grouped-query attention, half of each head rotated, SwiGLU.

Reproduces modeling_chatglm.py of THUDM/chatglm2-6b and THUDM/chatglm3-6b; modules have its names, so that
parameters have those of hub checkpoints.
"""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_glm.array_types import Array
from paddle_glm.config import ModelConfig
from paddle_glm.kernels import operators
from paddle_glm.kernels.operators import CacheBuffers, CachePages, LinearWeight
from paddle_glm.kernels.usage import uses_operators
from paddle_glm.kv_cache import LayerCache
from paddle_glm.kv_cache.pages import PagedLayer
from paddle_glm.kv_cache.tensors import InPlaceCache
from paddle_glm.layers.activation import swiglu
from paddle_glm.layers.attention import attend, attend_rotated, split_qkv_per_head
from paddle_glm.layers.attention_mask import AttentionMask
from paddle_glm.layers.norm import RMSNorm
from paddle_glm.layers.recompute import AttentionLayer
from paddle_glm.layers.rotary import apply_rotary_interleaved, rotary_cos_sin, rotary_table
from paddle_glm.models.base import CausalLM
from paddle_glm.models.chatglm2.parameters import attention_output, ffn_output, gate_up, query_key_value
from paddle_glm.models.chatglm2.positions import rotary_dim
from paddle_glm.paddle_types import TensorLayer
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.collectives import reduce_from_group
from paddle_glm.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    WeightFormat,
)
from paddle_glm.parallel.lm_head import LMHead, ParallelLMHead
from paddle_glm.parallel.rng import sharded_rng
from paddle_glm.parallel.sequence import SlicedLayer
from paddle_glm.precision import compute_dtype
from paddle_glm.sharding import vocab_parallel


class SelfAttention(AttentionLayer):
    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.group, self.dropout, self.head_dim = group, config.attention_dropout, config.head_dim
        sharding = query_key_value(config)
        self.query_key_value = ColumnParallelLinear(
            config.hidden_size, sharding, group, weight_format, bias=config.add_qkv_bias
        )
        self.dense = RowParallelLinear(config.hidden_size, attention_output(config), group, weight_format)
        # Numbers of channels of queries, keys and values on this rank; None: head by head.
        self.block_sizes: list[int] | None = None
        if config.multi_query_attention:
            ranges = sharding.local_ranges(group.rank, group.degree)
            self.block_sizes = [stop - start for start, stop in ranges]

    def core(
        self, fused: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.block_sizes is not None:
            return attend_rotated(
                fused, self.block_sizes, self.head_dim, rotary, mask, cache, self.group, dropout
            )
        query, key, value = split_qkv_per_head(fused, self.head_dim)
        query, key = apply_rotary_interleaved(query, *rotary), apply_rotary_interleaved(key, *rotary)
        return attend(query, key, value, mask, cache, self.group, dropout)


class MLP(TensorLayer):
    """x [batch, tokens, hidden] -> the same shape: fused gate and up, SwiGLU, down."""

    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.dense_h_to_4h = ColumnParallelLinear(config.hidden_size, gate_up(config), group, weight_format)
        self.dense_4h_to_h = RowParallelLinear(config.hidden_size, ffn_output(config), group, weight_format)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(swiglu(self.dense_h_to_4h(x)))


class Block(SlicedLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.dropout = config.hidden_dropout
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon, weight_format.dtype)
        self.self_attention = SelfAttention(config, group, weight_format)
        self.post_attention_layernorm = RMSNorm(
            config.hidden_size, config.layernorm_epsilon, weight_format.dtype
        )
        self.mlp = MLP(config, group, weight_format)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None = None
    ) -> Tensor:
        if isinstance(cache, InPlaceCache | PagedLayer):
            weights = self._operator_weights(x)
            if weights is not None:
                return self._forward_operators(x, rotary, mask, cache, weights)
        attn_output = self.self_attention(self.input_layernorm(x), rotary, mask, cache)
        x, normalized = self.post_attention_layernorm.add(x, self._hidden_dropout(attn_output))
        return x + self._hidden_dropout(self.mlp(normalized))

    def _operator_weights(self, x: Tensor) -> list[LinearWeight] | None:
        """The weights of qkv, dense, h_to_4h and 4h_to_h for operators of half a block; None: layer by layer.

        Operators do not call sublayers, so they are not for blocks of which any has a hook (LoRA).
        """
        if self.training or not uses_operators():
            return None
        attention, mlp = self.self_attention, self.mlp
        linears = (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)
        called = (self.input_layernorm, attention, self.post_attention_layernorm, mlp, *linears)
        if attention.block_sizes is None or any(layer.has_hooks for layer in called):
            return None
        weights = [weight for linear in linears if (weight := linear.linear_weight(x)) is not None]
        return weights if len(weights) == len(linears) else None

    def _forward_operators(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: AttentionMask,
        cache: InPlaceCache | PagedLayer,
        weights: list[LinearWeight],
    ) -> Tensor:
        attention, (qkv, dense, up, down) = self.self_attention, weights
        sizes, head_dim, group = attention.block_sizes, attention.head_dim, attention.group
        assert sizes is not None
        heads, kv_heads, alone = sizes[0] // head_dim, sizes[1] // head_dim, group.degree == 1
        norm, bias = self.input_layernorm.operands, attention.query_key_value.bias
        columns: CacheBuffers | CachePages
        if isinstance(cache, PagedLayer):
            columns = CachePages(*cache.pages, cache.step.table, cache.step.past)
        else:
            keys, values, past = cache.reserve(x.shape[0], kv_heads, x.shape[1], head_dim)
            columns = CacheBuffers(keys, values, mask.dense, past)
        attended = operators.attention_block(
            x, norm, qkv, bias, rotary, columns, dense, heads, add_input=alone
        )
        x = attended if alone else x + reduce_from_group(attended, group)
        y = operators.mlp_block(x, self.post_attention_layernorm.operands, up, down, add_input=alone)
        return y if alone else x + reduce_from_group(y, group)

    def _hidden_dropout(self, x: Tensor) -> Tensor:
        if not self.dropout:
            return x
        with sharded_rng(self.token_group):
            return F.dropout(x, self.dropout, training=self.training)


class Embedding(TensorLayer):
    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.word_embeddings = VocabParallelEmbedding(
            config.hidden_size, vocab_parallel(config.vocab_size), group, weight_format
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.word_embeddings(input_ids)


class Encoder(nn.Layer):
    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.layers = nn.LayerList([Block(config, group, weight_format) for _ in range(config.num_layers)])
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon, weight_format.dtype)


class Transformer(nn.Layer):
    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.embedding = Embedding(config, group, weight_format)
        self.encoder = Encoder(config, group, weight_format)
        self.output_layer = ParallelLMHead(
            config.hidden_size, vocab_parallel(config.vocab_size), group, weight_format
        )


class ChatGLM2Model(CausalLM):
    """`forward` is `CausalLM`'s, with position_ids [batch, tokens]."""

    def __init__(
        self, config: ModelConfig, dtype: str = "float32", group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        super().__init__(config, dtype, group)
        self.transformer = Transformer(config, group, self.weight_format)
        self.register_buffer("rotary_table", paddle.to_tensor(self.build_rotary_table()), persistable=False)

    def build_rotary_table(self) -> Array:
        """float32 [max_sequence_length, rotary_dim], in model precision; `rope_ratio` divides positions."""
        config = self.config
        return rotary_table(
            config.max_sequence_length, rotary_dim(config), self.dtype, position_scale=config.rope_ratio
        )

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.transformer.embedding(input_ids)

    def blocks(self) -> list[nn.Layer]:
        return list(self.transformer.encoder.layers)

    def position_embeddings(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return rotary_cos_sin(self.rotary_table, position_ids, compute_dtype(self.weight_dtype))

    def final_norm(self, x: Tensor) -> Tensor:
        return self.transformer.encoder.final_layernorm(x)

    def head(self) -> LMHead:
        return self.transformer.output_layer
