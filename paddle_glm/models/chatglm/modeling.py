"""ChatGLM-6B: post-residual blocks, two rotary positions per token, bidirectional attention in the prompt.

Reproduces modeling_chatglm.py of THUDM/chatglm-6b; modules have its names, so that parameters have those of
hub checkpoints.
"""

import math

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_glm.array_types import Array
from paddle_glm.config import ModelConfig
from paddle_glm.kv_cache import LayerCache
from paddle_glm.layers.activation import gelu_tanh
from paddle_glm.layers.attention import (
    attend,
    split_qkv_per_head,
)
from paddle_glm.layers.attention_mask import AttentionMask, dim_size
from paddle_glm.layers.norm import LayerNorm
from paddle_glm.layers.recompute import AttentionLayer
from paddle_glm.layers.rotary import apply_rotary_halves, cos_sin_table, rotary_cos_sin_per_row
from paddle_glm.models.base import CausalLM
from paddle_glm.models.chatglm.parameters import attention_output, ffn_input, ffn_output, query_key_value
from paddle_glm.models.chatglm.positions import rotary_dim, sop_token_id
from paddle_glm.paddle_types import TensorLayer
from paddle_glm.parallel import SINGLE_PROCESS, ProcessGroup
from paddle_glm.parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    WeightFormat,
)
from paddle_glm.parallel.lm_head import LMHead, TiedLMHead
from paddle_glm.precision import compute_dtype
from paddle_glm.sharding import vocab_parallel

# The original takes its default of 28 layers, whatever the configuration says.
RESIDUAL_SCALE = math.sqrt(2 * 28)


class SelfAttention(AttentionLayer):
    def __init__(
        self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat, index: int
    ) -> None:
        super().__init__()
        # As in the original, scores are divided by the layer's number until they are float32.
        self.group, self.head_dim, self.qk_layer_scaling = group, config.head_dim, index + 1.0
        self.query_key_value = ColumnParallelLinear(
            config.hidden_size, query_key_value(config), group, weight_format, bias=True
        )
        self.dense = RowParallelLinear(
            config.hidden_size, attention_output(config), group, weight_format, bias=True
        )

    def core(
        self, fused: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None
    ) -> Tensor:
        query, key, value = split_qkv_per_head(fused, self.head_dim)
        query, key = apply_rotary_halves(query, *rotary), apply_rotary_halves(key, *rotary)
        return attend(query, key, value, mask, cache, self.group, qk_layer_scaling=self.qk_layer_scaling)


class MLP(TensorLayer):
    """x [batch, tokens, hidden] -> the same shape: two projections and GELU (tanh approximation)."""

    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        self.dense_h_to_4h = ColumnParallelLinear(
            config.hidden_size, ffn_input(config), group, weight_format, bias=True
        )
        self.dense_4h_to_h = RowParallelLinear(
            config.hidden_size, ffn_output(config), group, weight_format, bias=True
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(gelu_tanh(self.dense_h_to_4h(x)))


class Block(TensorLayer):
    """h = norm(x), x = scale * h + attention(h), then the same with the MLP: norms feed the residuals."""

    def __init__(
        self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat, index: int
    ) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon, weight_format.dtype)
        self.attention = SelfAttention(config, group, weight_format, index)
        self.post_attention_layernorm = LayerNorm(
            config.hidden_size, config.layernorm_epsilon, weight_format.dtype
        )
        self.mlp = MLP(config, group, weight_format)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: AttentionMask, cache: LayerCache | None = None
    ) -> Tensor:
        x = self.input_layernorm(x)
        attn_output = self.attention(x, rotary, mask, cache)
        x = self.post_attention_layernorm(x * RESIDUAL_SCALE + attn_output)
        return x * RESIDUAL_SCALE + self.mlp(x)


class Transformer(nn.Layer):
    def __init__(self, config: ModelConfig, group: ProcessGroup, weight_format: WeightFormat) -> None:
        super().__init__()
        vocab = vocab_parallel(config.vocab_size)
        self.word_embeddings = VocabParallelEmbedding(config.hidden_size, vocab, group, weight_format)
        self.layers = nn.LayerList(
            [Block(config, group, weight_format, index) for index in range(config.num_layers)]
        )
        self.final_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon, weight_format.dtype)


class ChatGLMModel(CausalLM):
    """`forward` is `CausalLM`'s, with position_ids [batch, 2, tokens].

    Tokens before `<sop>` attend to each other, and all tokens to them: those whose second position is 0. With
    one row of positions (`position_encoding_2d` false) they are found by the `<sop>` in `input_ids`, so that
    the prompt must be passed in one call.
    """

    def __init__(
        self, config: ModelConfig, dtype: str = "float32", group: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        super().__init__(config, dtype, group)
        self.transformer = Transformer(config, group, self.weight_format)
        self.lm_head = TiedLMHead(self.transformer.word_embeddings)
        self.register_buffer("rotary_table", paddle.to_tensor(self.build_rotary_table()), persistable=False)

    def build_rotary_table(self) -> Array:
        inv_freq = rotary_inv_freq(rotary_dim(self.config))
        return cos_sin_table(self.config.max_sequence_length, inv_freq, self.dtype)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.transformer.word_embeddings(input_ids)

    def blocks(self) -> list[nn.Layer]:
        return list(self.transformer.layers)

    def position_embeddings(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = position_ids if position_ids.ndim == 3 else position_ids.unsqueeze(1)
        return rotary_cos_sin_per_row(self.rotary_table, rows, compute_dtype(self.weight_dtype))

    def build_attention_mask(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> AttentionMask:
        if position_ids.ndim == 3:
            context = position_ids[:, 1] == 0
        else:
            ends = paddle.equal(input_ids, paddle.full_like(input_ids, sop_token_id(self.config)))
            context = ends.astype("int64").cumsum(axis=1) == 0
        return AttentionMask(attention_mask, dim_size(context, 1), context)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.transformer.final_layernorm(x)

    def head(self) -> LMHead:
        return self.lm_head


def rotary_inv_freq(size: int) -> Array:
    """Rotary frequencies of `size` channels, float32 [size / 2], rounded to float16 as in the original."""
    exponent = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return (1.0 / 10000.0**exponent).astype(np.float16).astype(np.float32)
